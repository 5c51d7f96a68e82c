//! `[notify.mail]` and `[[notify.webhook]]`: who is told how a resync ended.

use std::str::FromStr;

use super::mistake::Notes;
use super::section::Section;
use crate::value::{AbsolutePath, MailServer, Mailbox, Unfit, WebhookUrl, shown};

const MAX_WEBHOOKS: usize = 16;
const MAX_USER_BYTES: usize = 256;

/// Who is told how a resync ended.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Notify {
    /// By mail.
    pub mail: Option<Mail>,
    /// By a request to a URL.
    pub webhooks: Vec<Webhook>,
}

/// Mail that is sent when a resync ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mail {
    /// To whom.
    pub to: Vec<Mailbox>,
    /// From whom.
    pub from: Mailbox,
    /// Over which server.
    pub smtp: MailServer,
    /// As which of its users, with the password in which file.
    pub login: Option<Login>,
    /// After which ends.
    pub on: Vec<Ending>,
}

/// A user of a mail server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The file that holds the password.
    pub password_file: AbsolutePath,
}

/// A request that is sent when a resync ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Webhook {
    /// Where to.
    pub url: WebhookUrl,
    /// The file that holds the secret which the body is signed with.
    pub secret_file: Option<AbsolutePath>,
    /// After which ends.
    pub on: Vec<Ending>,
}

/// How a resync can end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ending {
    /// Every secondary is consistent.
    Ok,
    /// Some are, some are not.
    Partial,
    /// None is.
    Failed,
    /// A newer run took over.
    Fenced,
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Partial, Self::Failed, Self::Fenced];

    /// The word in the file.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Fenced => "fenced",
        }
    }
}

impl FromStr for Ending {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let found = Self::ALL.into_iter().find(|ending| ending.word() == text);
        found.ok_or_else(|| {
            let what = format!("{} is no way in which a resync ends", shown(text));
            Unfit::new(what, "write ok, partial, failed or fenced")
        })
    }
}

/// A user's name on a mail server.
struct User(String);

impl FromStr for User {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        match !text.is_empty() && text.len() <= MAX_USER_BYTES && !text.contains(char::is_control) {
            true => Ok(Self(text.to_owned())),
            false => Err(Unfit::new(
                format!("{} is no name of a user", shown(text)),
                "write the name that the mail server knows",
            )),
        }
    }
}

pub(super) fn read(section: Option<Section<'_>>, notes: &mut Notes<'_>) -> Notify {
    let Some(mut section) = section else {
        return Notify::default();
    };
    let mail = section.section("mail", "notify.mail", notes);
    let webhooks = section.sections("webhook", "notify.webhook", MAX_WEBHOOKS, notes);
    section.finish(notes);
    Notify {
        mail: mail.and_then(|section| read_mail(section, notes)),
        webhooks: webhooks
            .into_iter()
            .filter_map(|section| read_webhook(section, notes))
            .collect(),
    }
}

fn read_mail(mut section: Section<'_>, notes: &mut Notes<'_>) -> Option<Mail> {
    section.need("to", "add `to = [\"sre@example.org\"]`", notes);
    let to = section.words::<Mailbox>("to", notes);
    if let Some(span) = section.empty_list("to") {
        notes.missing(
            &span,
            "mail goes to nobody",
            "name somebody, or remove [notify.mail]",
        );
    }
    let from = section.needed_word("from", "add `from = \"lockstep@example.org\"`", notes);
    let smtp = section.needed_word("smtp", "add `smtp = \"smtp://mail.example.org:25\"`", notes);
    let login = login(&mut section, notes);
    let on = endings(&mut section, notes);
    section.finish(notes);
    Some(Mail {
        to: to?.value.into_iter().map(|to| to.value).collect(),
        from: from?.value,
        smtp: smtp?.value,
        login,
        on,
    })
}

fn login(section: &mut Section<'_>, notes: &mut Notes<'_>) -> Option<Login> {
    let user = section.word::<User>("user", notes);
    let password_file = section.word::<AbsolutePath>("password_file", notes);
    match (user, password_file) {
        (Some(user), Some(file)) => Some(Login {
            user: user.value.0,
            password_file: file.value,
        }),
        (None, None) => None,
        (Some(user), None) => {
            notes.missing(
                &user.span,
                "this `user` has no password",
                "add `password_file = \"/etc/lockstep/mail.password\"`",
            );
            None
        }
        (None, Some(file)) => {
            notes.missing(
                &file.span,
                "this password has no `user`",
                "add `user = \"…\"`",
            );
            None
        }
    }
}

fn read_webhook(mut section: Section<'_>, notes: &mut Notes<'_>) -> Option<Webhook> {
    let url = section.needed_word(
        "url",
        "add `url = \"https://hooks.example.org/lockstep\"`",
        notes,
    );
    let secret_file = section.word("secret_file", notes);
    let on = endings(&mut section, notes);
    section.finish(notes);
    Some(Webhook {
        url: url?.value,
        secret_file: secret_file.map(|file| file.value),
        on,
    })
}

/// After which ends something is sent; after each, if nothing is said.
fn endings(section: &mut Section<'_>, notes: &mut Notes<'_>) -> Vec<Ending> {
    let Some(on) = section.words::<Ending>("on", notes) else {
        return Ending::ALL.to_vec();
    };
    if let Some(span) = section.empty_list("on") {
        notes.missing(
            &span,
            "`on` names no end, so nothing is ever sent",
            "name some of ok, partial, failed, fenced, or remove the section",
        );
    }
    on.value.into_iter().map(|ending| ending.value).collect()
}
