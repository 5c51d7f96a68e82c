//! The nodes and volumes of `init` as they are written on the command line.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use lockstep_cluster::file::SshTarget;
use lockstep_cluster::value::{AbsolutePath, Address, Host, NodeName, Unfit, VolumeName};
use lockstep_protocol::{Failure, FailureKind};

use super::draft::{DraftVolume, uuid_v7};
use crate::failure::usage;

const PORT: u16 = 7801;
const LOCAL: &str = "local";

/// A node as it was named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Spec {
    pub(crate) name: NodeName,
    pub(crate) address: Address,
    /// `[USER@]HOST`; none for this machine.
    pub(crate) login: Option<String>,
}

/// The nodes as they were named; all mistakes are one failure.
pub(crate) fn specs(texts: &[String]) -> Result<Vec<Spec>, Failure> {
    let here = host_name();
    let are_all_local = texts.iter().all(|text| host_of(text).is_none());
    let local_host = if are_all_local { "127.0.0.1" } else { &here };
    let (specs, mistakes): (Vec<_>, Vec<_>) = texts
        .iter()
        .map(|text| spec(text, &here, local_host))
        .partition(Result::is_ok);
    let mistakes: Vec<String> = mistakes.into_iter().filter_map(Result::err).collect();
    if !mistakes.is_empty() {
        return Err(usage(mistakes.join("; "))
            .hint("write each as NAME=[USER@]HOST[:PORT], such as db1=admin@10.0.0.11"));
    }
    Ok(specs.into_iter().filter_map(Result::ok).collect())
}

/// What follows the name, without user and port; none for this machine.
fn host_of(text: &str) -> Option<&str> {
    let place = text.split_once('=').map_or(text, |(_, place)| place);
    let place = place.split_once('@').map_or(place, |(_, place)| place);
    let (host, _) = split_port(place);
    (!host.is_empty() && host != LOCAL).then_some(host)
}

/// `HOST[:PORT]`; an IPv6 address with a port is in brackets.
fn split_port(place: &str) -> (&str, Option<&str>) {
    match place.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (place, None),
    }
}

fn spec(text: &str, here: &str, local_host: &str) -> Result<Spec, String> {
    let (name, place) = match text.split_once('=') {
        Some((name, place)) => (Some(name), place),
        None => (None, text),
    };
    let (user, rest) = match place.split_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, place),
    };
    let (host, port) = split_port(rest);
    let host = host_of(text).map(|_| host);
    let port = match port {
        Some(port) => port.to_owned(),
        None => PORT.to_string(),
    };
    let written = match host {
        Some(host) if host.contains(':') && !host.starts_with('[') => format!("[{host}]:{port}"),
        Some(host) => format!("{host}:{port}"),
        None => format!("{local_host}:{port}"),
    };
    let address = written
        .parse::<Address>()
        .map_err(|unfit| format!("{text}: {}", unfit.what))?;
    let short = || {
        let host = host.unwrap_or(here);
        let is_number = matches!(address.host, Host::Ip(_)) && host != here;
        match is_number {
            true => Err(format!("{text}: a host by number needs a name")),
            false => Ok(host.split('.').next().unwrap_or(host).to_owned()),
        }
    };
    let name = match name {
        Some(name) => name.to_owned(),
        None => short()?,
    };
    let bare = host.map(|host| host.trim_start_matches('[').trim_end_matches(']'));
    let login = bare.map(|host| match user {
        Some(user) => format!("{user}@{host}"),
        None => host.to_owned(),
    });
    if let Some(login) = &login {
        login
            .parse::<SshTarget>()
            .map_err(|unfit| format!("{text}: {}", unfit.what))?;
    }
    Ok(Spec {
        name: name
            .parse()
            .map_err(|unfit: Unfit| format!("{text}: {}", unfit.what))?,
        address,
        login,
    })
}

fn host_name() -> String {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().into_owned()
}

/// `NAME=PATH` and `NAME=NODE:PATH`, in any order.
pub(crate) fn volumes(texts: &[String], specs: &[Spec]) -> Result<Vec<DraftVolume>, Failure> {
    let hint = "write --volume NAME=/PATH for every node, or --volume NAME=NODE:/PATH for one";
    let mut names: Vec<VolumeName> = Vec::new();
    let mut common: BTreeMap<VolumeName, AbsolutePath> = BTreeMap::new();
    let mut single: BTreeMap<(VolumeName, String), AbsolutePath> = BTreeMap::new();
    for text in texts {
        let unfit = |what: String| usage(format!("--volume {text}: {what}")).hint(hint);
        let (name, place) = text
            .split_once('=')
            .ok_or_else(|| unfit("it has no path".to_owned()))?;
        let name: VolumeName = name.parse().map_err(|it: Unfit| unfit(it.what))?;
        if !names.contains(&name) {
            names.push(name.clone());
        }
        let (node, path) = match place.split_once(':') {
            Some((node, path)) if !node.contains('/') => (Some(node), path),
            _ => (None, place),
        };
        let path: AbsolutePath = path.parse().map_err(|it: Unfit| unfit(it.what))?;
        let twice = match node {
            None => common.insert(name, path).is_some(),
            Some(node) if specs.iter().any(|spec| spec.name.as_str() == node) => {
                single.insert((name, node.to_owned()), path).is_some()
            }
            Some(node) => return Err(unfit(format!("there is no node `{node}`"))),
        };
        if twice {
            return Err(unfit("its path is given twice".to_owned()));
        }
    }
    names
        .into_iter()
        .map(|name| {
            let path = |spec: &Spec| {
                let own = single.get(&(name.clone(), spec.name.to_string()));
                own.or_else(|| common.get(&name)).cloned().ok_or_else(|| {
                    usage(format!("--volume {name}: it has no path on {}", spec.name)).hint(hint)
                })
            };
            Ok(DraftVolume {
                paths: specs.iter().map(path).collect::<Result<_, _>>()?,
                id: new_id()?,
                name,
            })
        })
        .collect()
}

fn new_id() -> Result<String, Failure> {
    let mut random = [0; 10];
    getrandom::fill(&mut random)
        .map_err(|error| Failure::new(FailureKind::Internal, format!("no randomness: {error}")))?;
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(uuid_v7(
        u64::try_from(since.as_millis()).unwrap_or(0),
        random,
    ))
}

#[cfg(test)]
mod tests {
    use super::{Spec, spec, specs, volumes};

    fn one(text: &str) -> Result<Spec, String> {
        spec(text, "here", "127.0.0.1")
    }

    #[test]
    fn nodes_are_written_in_several_ways() {
        for (text, name, address, login) in [
            ("db1", "db1", "db1:7801", Some("db1")),
            (
                "admin@db1.example.org",
                "db1",
                "db1.example.org:7801",
                Some("admin@db1.example.org"),
            ),
            ("a=10.0.0.1", "a", "10.0.0.1:7801", Some("10.0.0.1")),
            (
                "a=u@10.0.0.1:9000",
                "a",
                "10.0.0.1:9000",
                Some("u@10.0.0.1"),
            ),
            ("a=[fd00::1]:9000", "a", "[fd00::1]:9000", Some("fd00::1")),
            ("a=fd00::1", "a", "[fd00::1]:7801", Some("fd00::1")),
            ("a=local:7811", "a", "127.0.0.1:7811", None),
            ("a=", "a", "127.0.0.1:7801", None),
            ("local", "here", "127.0.0.1:7801", None),
        ] {
            let found = one(text).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(found.name.as_str(), name, "{text}");
            assert_eq!(found.address.to_string(), address, "{text}");
            assert_eq!(found.login.as_deref(), login, "{text}");
        }
        for bad in ["10.0.0.1", "a=b:0", "a=b:x", "a/b=c", "a=-oProxy", "a=u@-x"] {
            assert!(one(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_local_node_among_others_has_this_machines_name() {
        let all = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            specs(&texts).unwrap()
        };
        let mixed = all(&["a=local", "b=10.0.0.2"]);
        assert_ne!(mixed[0].address.to_string(), "127.0.0.1:7801");
        let local = all(&["a=local", "b=local:7802"]);
        assert_eq!(local[1].address.to_string(), "127.0.0.1:7802");
    }

    #[test]
    fn a_path_of_one_node_goes_before_that_of_all() {
        let specs = specs(&["a=local:1".to_owned(), "b=local:2".to_owned()]).unwrap();
        let paths = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            volumes(&texts, &specs).map(|found| {
                let each = found[0].paths.iter();
                each.map(|path| path.as_str().to_owned())
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(paths(&["v=/x"]).unwrap(), ["/x", "/x"]);
        assert_eq!(paths(&["v=b:/y", "v=/x"]).unwrap(), ["/x", "/y"]);
        assert_eq!(paths(&["v=/x:y"]).unwrap(), ["/x:y", "/x:y"]);
        for bad in [
            &["v"][..],
            &["v=x"],
            &["v=a:/x"],
            &["v=c:/x", "v=/x"],
            &["v=/x", "v=/y"],
        ] {
            assert!(paths(bad).is_err(), "{bad:?}");
        }
    }
}
