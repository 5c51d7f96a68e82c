//! How a TARGET is written: `PATH` or `[USER@]HOST:PATH`, as rsync reads it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use thiserror::Error;

/// A place to be made equal to the source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// A path on this machine.
    Local(PathBuf),
    /// A path on another machine.
    Remote(Remote),
}

/// A path on another machine, and how its shell is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Remote {
    /// The login, if one is named.
    pub(crate) user: Option<String>,
    /// A name or an address, without brackets.
    pub(crate) host: String,
    /// The path there; relative ones start where the login starts.
    pub(crate) path: PathBuf,
}

/// Text that names no target.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(crate) enum TargetError {
    #[error("a TARGET is empty")]
    Empty,
    #[error("`{0}` names no host before the colon")]
    NoHost(String),
    #[error("`{0}` names no path after the colon")]
    NoPath(String),
    #[error("`{0}` names no user before the @")]
    NoUser(String),
    #[error("`{0}` has an opening bracket that no `]:` closes")]
    OpenBracket(String),
    #[error(
        "`{0}` has two colons after its host: rsync modules are not targets, and an IPv6 address needs brackets, as in [::1]:PATH"
    )]
    DoubleColon(String),
    #[error("`{0}` is a URL; a target is PATH or [USER@]HOST:PATH")]
    Url(String),
    #[error("`{0}` names a host that the remote shell could take for an option")]
    LooksLikeOption(String),
    #[error("the host in `{0}` has characters that no host name has")]
    HostCharacters(String),
}

impl TargetError {
    /// What to write instead.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            TargetError::Empty => "name each target as PATH or [USER@]HOST:PATH",
            _ => "write a local path that holds a colon with a slash before it, as in ./a:b",
        }
    }
}

impl Target {
    /// Reads one TARGET.
    ///
    /// A colon before any slash makes it remote; brackets hold an IPv6 address.
    pub(crate) fn parse(text: &OsStr) -> Result<Target, TargetError> {
        let bytes = text.as_bytes();
        if bytes.is_empty() {
            return Err(TargetError::Empty);
        }
        let Some((place, path)) = split_place(bytes)? else {
            return Ok(Target::Local(PathBuf::from(text)));
        };
        let shown = || text.to_string_lossy().into_owned();
        if path.is_empty() {
            return Err(TargetError::NoPath(shown()));
        }
        if path.starts_with(b"//") {
            return Err(TargetError::Url(shown()));
        }
        if path.starts_with(b":") {
            return Err(TargetError::DoubleColon(shown()));
        }
        let (user, host) = split_user(place).ok_or_else(|| TargetError::NoUser(shown()))?;
        let host = host
            .strip_prefix(b"[")
            .and_then(|inner| inner.strip_suffix(b"]"))
            .unwrap_or(host);
        if host.is_empty() {
            return Err(TargetError::NoHost(shown()));
        }
        // `-oProxyCommand=…` as a host has run commands through other programs.
        if place.starts_with(b"-") || host.starts_with(b"-") {
            return Err(TargetError::LooksLikeOption(shown()));
        }
        let name =
            |part: &[u8]| host_text(part).ok_or_else(|| TargetError::HostCharacters(shown()));
        Ok(Target::Remote(Remote {
            user: user.map(name).transpose()?,
            host: name(host)?,
            path: PathBuf::from(OsString::from_vec(path.to_vec())),
        }))
    }
}

impl Remote {
    /// `[USER@]HOST`, as the remote shell's program wants it.
    pub(crate) fn login(&self) -> String {
        match &self.user {
            Some(user) => format!("{user}@{}", self.host),
            None => self.host.clone(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Local(path) => write!(f, "{}", path.display()),
            Target::Remote(remote) => {
                if let Some(user) = &remote.user {
                    write!(f, "{user}@")?;
                }
                match remote.host.contains(':') {
                    true => write!(f, "[{}]", remote.host)?,
                    false => f.write_str(&remote.host)?,
                }
                write!(f, ":{}", remote.path.display())
            }
        }
    }
}

/// The bytes before a colon, and those after it.
type Split<'a> = (&'a [u8], &'a [u8]);

/// What stands before and after the colon that makes a target remote.
fn split_place(bytes: &[u8]) -> Result<Option<Split<'_>>, TargetError> {
    let slash = bytes.iter().position(|&b| b == b'/').unwrap_or(bytes.len());
    let after_user = bytes[..slash]
        .iter()
        .position(|&b| b == b'@')
        .map_or(0, |at| at + 1);
    let colon = if bytes[after_user..].starts_with(b"[") {
        match bytes.windows(2).position(|pair| pair == b"]:") {
            Some(end) if end < slash => Some(end + 1),
            _ if bytes[..slash].contains(&b':') => {
                return Err(TargetError::OpenBracket(
                    String::from_utf8_lossy(bytes).into_owned(),
                ));
            }
            _ => None,
        }
    } else {
        bytes[..slash].iter().position(|&b| b == b':')
    };
    Ok(colon.map(|colon| (&bytes[..colon], &bytes[colon + 1..])))
}

/// User and host; `None` when the user is empty.
fn split_user(place: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    match place.iter().rposition(|&b| b == b'@') {
        Some(0) => None,
        Some(at) => Some((Some(&place[..at]), &place[at + 1..])),
        None => Some((None, place)),
    }
}

fn host_text(part: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(part).ok()?;
    let plain = text.chars().all(|c| !c.is_whitespace() && !c.is_control());
    plain.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Remote, Target, TargetError};
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::OsStringExt;
    use std::path::PathBuf;

    fn parse(text: &str) -> Result<Target, TargetError> {
        Target::parse(OsStr::new(text))
    }

    fn remote(user: Option<&str>, host: &str, path: &str) -> Result<Target, TargetError> {
        Ok(Target::Remote(Remote {
            user: user.map(str::to_owned),
            host: host.to_owned(),
            path: PathBuf::from(path),
        }))
    }

    #[test]
    fn a_colon_before_any_slash_makes_it_remote() {
        assert_eq!(parse("db2:/dev/vg0/pg"), remote(None, "db2", "/dev/vg0/pg"));
        assert_eq!(
            parse("root@db2:pg.img"),
            remote(Some("root"), "db2", "pg.img")
        );
        assert_eq!(parse("db2:a:b"), remote(None, "db2", "a:b"));
        for local in ["pg.img", "/srv/a:b", "./a:b", "a@b", "dir/x@y:z", "[x]"] {
            assert_eq!(parse(local), Ok(Target::Local(local.into())), "{local}");
        }
    }

    #[test]
    fn brackets_hold_an_ipv6_address() {
        assert_eq!(parse("[::1]:/x"), remote(None, "::1", "/x"));
        assert_eq!(
            parse("me@[fe80::1]:/x"),
            remote(Some("me"), "fe80::1", "/x")
        );
        assert_eq!(
            parse("[::1]:/x").map(|target| target.to_string()),
            Ok("[::1]:/x".into())
        );
        assert_eq!(
            parse("[::1:/x"),
            Err(TargetError::OpenBracket("[::1:/x".into()))
        );
        assert_eq!(
            parse("[::1]"),
            Err(TargetError::OpenBracket("[::1]".into()))
        );
    }

    #[test]
    fn half_written_targets_are_refused() {
        let text = |text: &str| text.to_owned();
        assert_eq!(parse(""), Err(TargetError::Empty));
        assert_eq!(parse(":/x"), Err(TargetError::NoHost(text(":/x"))));
        assert_eq!(parse("[]:/x"), Err(TargetError::NoHost(text("[]:/x"))));
        assert_eq!(parse("me@:/x"), Err(TargetError::NoHost(text("me@:/x"))));
        assert_eq!(parse("@db2:/x"), Err(TargetError::NoUser(text("@db2:/x"))));
        assert_eq!(parse("db2:"), Err(TargetError::NoPath(text("db2:"))));
        assert_eq!(
            parse("db2::pg"),
            Err(TargetError::DoubleColon(text("db2::pg")))
        );
        assert_eq!(
            parse("ssh://db2/x"),
            Err(TargetError::Url(text("ssh://db2/x")))
        );
    }

    #[test]
    fn no_host_becomes_an_option_of_the_remote_shell() {
        for text in [
            "-oProxyCommand=x:/y",
            "me@-oProxyCommand=x:/y",
            "-l@host:/y",
            "[-x]:/y",
        ] {
            assert_eq!(
                parse(text),
                Err(TargetError::LooksLikeOption(text.into())),
                "{text}"
            );
        }
        assert!(matches!(
            parse("a b:/y"),
            Err(TargetError::HostCharacters(_))
        ));
        assert!(matches!(
            parse("a\nb:/y"),
            Err(TargetError::HostCharacters(_))
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..64)) {
            let text = OsString::from_vec(bytes.clone());
            if let Ok(Target::Local(path)) = Target::parse(&text) {
                prop_assert_eq!(path.as_os_str(), text.as_os_str());
                let colon = bytes.iter().position(|&b| b == b':').unwrap_or(bytes.len());
                prop_assert!(colon == bytes.len() || bytes[..colon].contains(&b'/'));
            }
        }

        #[test]
        fn remote_targets_are_shown_as_they_were_written(
            user in "([a-z]{1,8}@)?", host in "[a-z0-9.]{1,12}", path in "/[a-z/:@]{0,20}[a-z]"
        ) {
            let text = format!("{user}{host}:{path}");
            if !path.starts_with("//") {
                prop_assert_eq!(parse(&text).map(|target| target.to_string()), Ok(text));
            }
        }
    }
}
