//! Names of things: short, and safe as a file's name, in a log line and as an argument.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Unfit, shown};

/// Longest name, in bytes: a DNS label's length.
pub const MAX_NAME_BYTES: usize = 63;

macro_rules! name {
    ($type:ident, $what:literal) => {
        #[doc = concat!("The name of ", $what, ".")]
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Unfit;

            fn from_str(text: &str) -> Result<Self, Unfit> {
                checked(text, $what).map(Self)
            }
        }

        impl TryFrom<String> for $type {
            type Error = Unfit;

            fn try_from(text: String) -> Result<Self, Unfit> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(ClusterName, "a cluster");
name!(NodeName, "a node");
name!(OperatorName, "an operator");
name!(VolumeName, "a volume");
name!(GroupName, "a group");

fn checked(text: &str, what: &str) -> Result<String, Unfit> {
    let remedy = "use letters, digits, `-`, `_` and `.`, the first a letter or a digit";
    if text.is_empty() {
        return Err(Unfit::new(format!("the name of {what} is empty"), remedy));
    }
    if text.len() > MAX_NAME_BYTES {
        let what = format!("{} is too long for the name of {what}", shown(text));
        return Err(Unfit::new(
            what,
            format!("use at most {MAX_NAME_BYTES} characters"),
        ));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || !text.chars().all(fits) {
        let what = format!("{} cannot be the name of {what}", shown(text));
        return Err(Unfit::new(what, remedy));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{MAX_NAME_BYTES, NodeName, VolumeName};

    #[test]
    fn a_name_is_safe_as_a_file_and_as_an_argument() {
        for good in ["db1", "0", "a.b-c_D", &"x".repeat(MAX_NAME_BYTES)] {
            assert_eq!(
                good.parse::<NodeName>().map(String::from),
                Ok(good.to_owned())
            );
        }
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for bad in ["", ".", "..", "-c", "a/b", "a b", "a\n", "é", "a\0", &long] {
            let unfit = bad.parse::<VolumeName>().unwrap_err();
            assert!(unfit.what.contains("a volume"), "{unfit}");
            assert!(!unfit.remedy.is_empty());
        }
    }

    #[test]
    fn a_name_is_checked_when_it_comes_from_json_too() {
        assert!(serde_json::from_str::<NodeName>("\"a/b\"").is_err());
        assert_eq!(
            serde_json::from_str::<NodeName>("\"a\"").unwrap().as_str(),
            "a"
        );
    }
}
