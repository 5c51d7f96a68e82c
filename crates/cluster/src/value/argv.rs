//! A program and its arguments, never a line for a shell.

use serde::{Deserialize, Serialize};

use super::{Unfit, shown};

/// Most words of a command.
pub const MAX_ARGUMENTS: usize = 64;
/// Longest word of a command, in bytes.
pub const MAX_ARGUMENT_BYTES: usize = 4096;

/// What a shell would do something with.
const SHELL: &[char] = &[
    '|', '&', ';', '<', '>', '(', ')', '$', '`', '\\', '"', '\'', '*', '?', '~', '#', '=',
];

/// A program and its arguments.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Argv(Vec<String>);

impl Argv {
    /// The program: an absolute path, or a name that is looked for in `PATH`.
    #[must_use]
    pub fn program(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// The program and its arguments.
    #[must_use]
    pub fn words(&self) -> &[String] {
        &self.0
    }
}

impl TryFrom<Vec<String>> for Argv {
    type Error = Unfit;

    fn try_from(words: Vec<String>) -> Result<Self, Unfit> {
        let Some(program) = words.first() else {
            return Err(Unfit::new(
                "the command is empty",
                "name a program, as `[\"/usr/bin/true\"]`, or leave the key out",
            ));
        };
        if words.len() > MAX_ARGUMENTS || words.iter().any(|word| word.len() > MAX_ARGUMENT_BYTES) {
            return Err(Unfit::new(
                format!(
                    "the command has more than {MAX_ARGUMENTS} words, or one of more than {MAX_ARGUMENT_BYTES} bytes"
                ),
                "put it into a script, and name that",
            ));
        }
        if words.iter().any(|word| word.contains('\0')) {
            return Err(Unfit::new("the command holds a NUL character", "remove it"));
        }
        check_program(program, words.len() == 1)?;
        Ok(Self(words))
    }
}

fn check_program(program: &str, is_alone: bool) -> Result<(), Unfit> {
    if program.is_empty() {
        return Err(Unfit::new(
            "the program's name is empty",
            "name a program first, then its arguments",
        ));
    }
    if program.starts_with('/') {
        return Ok(());
    }
    if program.contains(char::is_whitespace) {
        let remedy = match is_alone {
            true => instead_of_line(program),
            false => "write its absolute path, and each argument as a text of its own".to_owned(),
        };
        return Err(Unfit::new(
            format!(
                "{} is not the name of a program: no shell splits it",
                shown(program)
            ),
            remedy,
        ));
    }
    if program.contains('/') {
        return Err(Unfit::new(
            format!("the program {} is a relative path", shown(program)),
            "write it from the root: agents run in no known folder",
        ));
    }
    Ok(())
}

/// What to write instead of a line for a shell.
pub(crate) fn instead_of_line(line: &str) -> String {
    if line.contains(SHELL) || line.trim().is_empty() {
        return "put it into a script, and name that: `[\"/etc/lockstep/script\"]`".to_owned();
    }
    let words: Vec<String> = line
        .split_whitespace()
        .map(|word| format!("\"{word}\""))
        .collect();
    format!("write a list of words: `[{}]`", words.join(", "))
}

impl From<Argv> for Vec<String> {
    fn from(argv: Argv) -> Self {
        argv.0
    }
}

#[cfg(test)]
mod tests {
    use super::{Argv, MAX_ARGUMENTS, instead_of_line};

    fn argv(words: &[&str]) -> Result<Argv, super::Unfit> {
        Argv::try_from(
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn a_command_is_a_program_and_words() {
        assert_eq!(argv(&["pg_isready", "-q"]).unwrap().program(), "pg_isready");
        assert!(argv(&["/opt/my programs/x", "", "a b"]).is_ok());
        for bad in [
            &[][..],
            &[""],
            &["./x"],
            &["bin/x"],
            &["systemctl stop pg"],
            &["a b", "c"],
            &["x", "a\0"],
            &["x"; MAX_ARGUMENTS + 1],
        ] {
            assert!(argv(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_line_for_a_shell_becomes_words_or_a_script() {
        assert!(instead_of_line("systemctl stop pg").contains("[\"systemctl\", \"stop\", \"pg\"]"));
        assert!(instead_of_line("a | b").contains("script"));
        assert!(
            argv(&["systemctl stop pg"])
                .unwrap_err()
                .remedy
                .contains("\"stop\"")
        );
    }
}
