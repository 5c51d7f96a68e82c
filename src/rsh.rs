//! The remote shell's command line, split as rsync splits its `-e`.

use thiserror::Error;

/// A `-e` that names no command.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(crate) enum RshError {
    #[error("the remote shell (-e) is empty")]
    Empty,
    #[error("the remote shell (-e) has a {0} that is never closed")]
    OpenQuote(char),
}

/// Splits at blanks. Single and double quotes keep blanks; a quote is doubled to stand for itself
/// inside its own kind (rsync(1), `--rsh`). There are no other escapes and there is no expansion.
pub(crate) fn split(command: &str) -> Result<Vec<String>, RshError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = command.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' | '"' => {
                let quoted = word.get_or_insert_default();
                read_quoted(character, &mut characters, quoted)?;
            }
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    match words.first() {
        Some(program) if !program.is_empty() => Ok(words),
        _ => Err(RshError::Empty),
    }
}

/// The word as it must be written to stay one word.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=@,+%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "''")),
    }
}

fn read_quoted(
    quote: char,
    characters: &mut std::iter::Peekable<std::str::Chars<'_>>,
    word: &mut String,
) -> Result<(), RshError> {
    while let Some(character) = characters.next() {
        if character != quote {
            word.push(character);
        } else if characters.next_if_eq(&quote).is_some() {
            word.push(quote);
        } else {
            return Ok(());
        }
    }
    Err(RshError::OpenQuote(quote))
}

#[cfg(test)]
mod tests {
    use super::{RshError, quoted, split};
    use proptest::prelude::{any, prop_assert_eq, proptest};

    #[test]
    fn commands_are_split_as_rsync_splits_them() {
        for (command, words) in [
            ("ssh", vec!["ssh"]),
            ("  ssh  -p 2222\t-4 ", vec!["ssh", "-p", "2222", "-4"]),
            (
                "ssh -o 'ProxyCommand nc %h %p'",
                vec!["ssh", "-o", "ProxyCommand nc %h %p"],
            ),
            (r#"ssh -o "a ""b"" c""#, vec!["ssh", "-o", r#"a "b" c"#]),
            ("sh '-c' it''s", vec!["sh", "-c", "its"]),
            ("sh ''", vec!["sh", ""]),
            (r"ssh -i a\b", vec!["ssh", "-i", r"a\b"]),
        ] {
            assert_eq!(split(command).unwrap(), words, "{command}");
        }
    }

    #[test]
    fn what_names_no_command_is_refused() {
        assert_eq!(split(""), Err(RshError::Empty));
        assert_eq!(split("   "), Err(RshError::Empty));
        assert_eq!(split("'' ssh"), Err(RshError::Empty));
        assert_eq!(split("ssh -o 'x"), Err(RshError::OpenQuote('\'')));
    }

    proptest! {
        #[test]
        fn quoted_words_come_back(words in proptest::collection::vec(any::<String>(), 1..5)) {
            let command = words
                .iter()
                .map(|word| quoted(word))
                .collect::<Vec<_>>()
                .join(" ");
            match split(&command) {
                Ok(again) => prop_assert_eq!(again, words),
                Err(error) => prop_assert_eq!((error, words[0].as_str()), (RshError::Empty, "")),
            }
        }
    }
}
