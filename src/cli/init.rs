//! `init`: a cluster from nothing: keys, the cluster file, an agent on each node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use lockstep_cluster::ClusterFile;
use lockstep_cluster::key::KeyStore;
use lockstep_cluster::value::AbsolutePath;
use lockstep_protocol::{Failure, FailureKind};

use super::Context;
use super::on_cluster::watched;
use super::options::ShellOptions;
use super::request::state_dir;
use crate::cluster_file;
use crate::consent::{is_answered_yes, plain, somebody_is_there};
use crate::events::{ErrorInfo, Summary, TargetSummary};
use crate::failure::{chain, usage};
use crate::install::draft::{Draft, DraftNode, DraftVolume, agent_file, unit};
use crate::install::wanted::{Spec, specs, volumes};
use crate::install::{Done, Files, Place, Seen};
use crate::rsh;

const DIR: &str = "/etc/lockstep";
const STATE_DIR: &str = "/var/lib/lockstep";

/// Make a cluster: keys, a cluster file with these nodes and volumes, and an agent on each node.
///
/// The first node is the primary, the others are its replicas. Other machines are reached over ssh;
/// no volume is read or written.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    // Not a doc comment: rustdoc would take the brackets for a link.
    #[arg(value_name = "NODE", required = true, num_args = 2..,
          help = "[NAME=][USER@]HOST[:PORT], where PORT is the agent's (UDP); HOST `local` is this machine")]
    nodes: Vec<String>,
    /// A volume, and its path on every node; NAME=NODE:PATH for one that differs; may be repeated
    #[arg(long = "volume", value_name = "NAME=PATH", required = true)]
    volumes: Vec<String>,
    /// The cluster's name
    #[arg(long, value_name = "NAME", default_value = "main")]
    name: String,
    /// What the key of this command's state directory is called in the cluster file
    #[arg(long, value_name = "NAME", default_value = "ops")]
    operator: String,
    /// Where the files go on each node, NODE=DIR for one; the node's state is then in DIR/state
    /// [default: /etc/lockstep, and /var/lib/lockstep for the state]
    #[arg(long = "dir", value_name = "DIR")]
    dirs: Vec<String>,
    /// Install no service, only print the command that runs each agent
    #[arg(long)]
    no_service: bool,
    /// Replace cluster files that are there
    #[arg(long)]
    force: bool,
    /// Do not ask whether the fingerprints are right
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    shell: ShellOptions,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let specs = specs(&arguments.nodes)?;
    let mut volumes = volumes(&arguments.volumes, &specs)?;
    let places = places(arguments, &specs)?;
    let own = KeyStore::at(&state_dir(context.state_dir.as_deref())?)
        .open()
        .map_err(|error| usage(chain(&error)).hint(error.remedy()))?;
    let own_file = own_file(&places, context)?;
    let seen = look(&places, context)?;
    refuse_existing(arguments.force, &places, &seen, own_file.as_deref())?;

    keep_ids(&mut volumes, &places, own_file.as_deref());
    let operator_key = own.current.public();
    let is_a_node = seen.iter().any(|seen| seen.key == operator_key);
    let draft = Draft {
        cluster: arguments.name.clone(),
        operator: (!is_a_node).then(|| (arguments.operator.clone(), operator_key)),
        nodes: (specs.iter().zip(&seen))
            .map(|(spec, seen)| DraftNode {
                name: spec.name.clone(),
                address: spec.address.clone(),
                key: seen.key,
                ssh: spec.login.clone(),
            })
            .collect(),
        volumes,
    };
    let text = draft.text();
    let output = &context.output;
    let shown = own_file
        .clone()
        .unwrap_or_else(|| PathBuf::from("cluster.toml"));
    ClusterFile::parse(text.as_bytes(), &shown)
        .map_err(|mistakes| cluster_file::tell(&mistakes, output))?;
    agree(arguments.yes, &draft, &places, &seen, context)?;

    if let Some(path) = &own_file {
        write_own(path, &text)?;
        output.say(&format!("{} is written", path.display()));
    }
    let mut done = Vec::new();
    for ((place, node), seen) in places.iter().zip(&draft.nodes).zip(&seen) {
        let unit = wanted_unit(arguments, place, seen);
        let files = Files {
            cluster: text.clone(),
            agent: agent_file(node),
            unit,
        };
        let result = place.install(&seen.program, &files);
        tell(place, seen, &result, context);
        done.push(result);
    }
    Ok(end(&draft, &places, own_file.as_deref(), &done, context))
}

/// Where each node's shell is, and where its files go.
fn places(arguments: &Arguments, specs: &[Spec]) -> Result<Vec<Place>, Failure> {
    let shell = rsh::split(&arguments.shell.rsh).map_err(|error| usage(error.to_string()))?;
    let own_program = std::env::current_exe()
        .map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))?;
    let mut common = None;
    let mut single = BTreeMap::new();
    for text in &arguments.dirs {
        let (node, dir) = match text.split_once('=') {
            Some((node, dir)) if !node.contains('/') => (Some(node), dir),
            _ => (None, text.as_str()),
        };
        let dir: AbsolutePath = dir
            .parse()
            .map_err(|it: lockstep_cluster::value::Unfit| usage(format!("--dir: {}", it.what)))?;
        match node {
            None => common = Some(dir),
            Some(node) if specs.iter().any(|spec| spec.name.as_str() == node) => {
                single.insert(node, dir);
            }
            Some(node) => return Err(usage(format!("--dir {text}: there is no node `{node}`"))),
        }
    }
    Ok(specs
        .iter()
        .map(|spec| {
            let named = single.get(spec.name.as_str()).or(common.as_ref());
            let (dir, state_dir) = match named {
                None => (DIR.to_owned(), STATE_DIR.to_owned()),
                Some(dir) => (dir.as_str().to_owned(), format!("{}/state", dir.as_str())),
            };
            Place {
                node: spec.name.to_string(),
                remote: spec.login.clone().map(|login| (login, shell.clone())),
                program: match &spec.login {
                    Some(_) => arguments.shell.remote_path.clone(),
                    None => own_program.to_string_lossy().into_owned(),
                },
                dir,
                state_dir,
            }
        })
        .collect())
}

/// Where the caller's own copy goes; none if a node on this machine has it where it is looked for.
fn own_file(places: &[Place], context: &Context) -> Result<Option<PathBuf>, Failure> {
    let path = match &context.cluster {
        Some(path) => path.clone(),
        None if places.iter().any(|it| it.remote.is_none() && it.dir == DIR) => return Ok(None),
        None => PathBuf::from("cluster.toml"),
    };
    let path = std::path::absolute(&path)
        .map_err(|error| usage(format!("{}: {error}", path.display())))?;
    let is_a_nodes = |place: &Place| {
        place.remote.is_none() && Path::new(&place.cluster_file()) == path.as_path()
    };
    Ok((!places.iter().any(is_a_nodes)).then_some(path))
}

/// A volume that is in a file which is replaced stays the same one: promises to runs go by its id.
fn keep_ids(volumes: &mut [DraftVolume], places: &[Place], own: Option<&Path>) {
    let local = places.iter().find(|place| place.remote.is_none());
    let local = local.map(|place| PathBuf::from(place.cluster_file()));
    let Some(path) = own.map(Path::to_owned).or(local) else {
        return;
    };
    // One that is missing, or has mistakes, has no ids to keep.
    let Ok(earlier) = ClusterFile::read(&path) else {
        return;
    };
    for volume in volumes {
        if let Some(same) = earlier.volume(&volume.name) {
            volume.id = same.id.to_string();
        }
    }
}

/// One after the other, for the remote shell may ask something.
fn look(places: &[Place], context: &Context) -> Result<Vec<Seen>, Failure> {
    places
        .iter()
        .map(|place| {
            context.output.say(&format!("looking at {}", place.node));
            place.look().map_err(|failure| {
                let hint = failure.hint.clone();
                Failure {
                    message: format!("{}; nothing was installed anywhere", failure.message),
                    ..failure
                }
                .hint(hint)
            })
        })
        .collect()
}

fn refuse_existing(
    force: bool,
    places: &[Place],
    seen: &[Seen],
    own: Option<&Path>,
) -> Result<(), Failure> {
    let mut there: Vec<String> = (places.iter().zip(seen))
        .flat_map(|(place, seen)| {
            let each = seen.there.iter();
            each.map(|file| format!("{file} on {}", place.node))
        })
        .collect();
    if let Some(own) = own.filter(|path| path.symlink_metadata().is_ok()) {
        there.push(format!("{} here", own.display()));
    }
    if force || there.is_empty() {
        return Ok(());
    }
    let message = format!("these are there already: {}", there.join(", "));
    Err(Failure::new(FailureKind::Guard, message)
        .hint("nothing was installed; --force replaces them, and --dir and -c name other places"))
}

fn agree(
    yes: bool,
    draft: &Draft,
    places: &[Place],
    seen: &[Seen],
    context: &Context,
) -> Result<(), Failure> {
    let mut text = format!("The cluster {} will be:\n", plain(&draft.cluster));
    for (number, ((node, place), seen)) in draft.nodes.iter().zip(places).zip(seen).enumerate() {
        let role = if number == 0 { "primary" } else { "replica" };
        text.push_str(&format!(
            "  {}  {role}  {}  key {}  {}  {}\n",
            node.name,
            node.address,
            node.key.fingerprint(),
            plain(&seen.version),
            plain(&place.cluster_file()),
        ));
    }
    if let Some((name, key)) = &draft.operator {
        text.push_str(&format!(
            "  {}  operator  key {}\n",
            plain(name),
            key.fingerprint()
        ));
    }
    for volume in &draft.volumes {
        let paths: Vec<String> = volume
            .paths
            .iter()
            .map(|path| plain(path.as_str()))
            .collect();
        text.push_str(&format!("  volume {}: {}\n", volume.name, paths.join(", ")));
    }
    text.push_str("`lockstep node show` on a machine prints its fingerprint.\n");
    let output = &context.output;
    let refused = |why: &str| {
        let message = format!("{why}; nothing was installed, only keys were made");
        Failure::new(FailureKind::NotConfirmed, message)
    };
    if yes {
        text.lines().for_each(|line| output.say(line));
        return Ok(());
    }
    if !somebody_is_there() {
        text.lines().for_each(|line| output.say(line));
        return Err(
            refused("nobody is there to say that the fingerprints are right")
                .hint("compare them, then run it again with --yes"),
        );
    }
    text.push_str("Type `yes` to install this: ");
    match is_answered_yes(&text, output, &*watched(output)?) {
        true => Ok(()),
        false => Err(refused("not confirmed")),
    }
}

fn write_own(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(
            FailureKind::Io,
            format!("cannot write {}: {error}", path.display()),
        )
        .hint("nothing was installed on any node; name another place with -c FILE")
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)?;
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(readable).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// The unit is for the usual place alone: there is one of its name.
fn wanted_unit(arguments: &Arguments, place: &Place, seen: &Seen) -> Option<String> {
    let is_wanted = seen.has_systemd && !arguments.no_service && place.dir == DIR;
    is_wanted
        .then(|| unit(&seen.program, &place.cluster_file(), &place.state_dir))
        .flatten()
}

fn tell(place: &Place, seen: &Seen, done: &Done, context: &Context) {
    let output = &context.output;
    let (node, file) = (&place.node, place.cluster_file());
    match (&done.failure, done.files, done.started) {
        (None, _, true) => output.result(&format!(
            "{node}: {file} is installed, and lockstep-agent.service runs"
        )),
        (None, ..) => output.result(&format!(
            "{node}: {file} is installed; start its agent there: {}",
            place.agent_command(&seen.program)
        )),
        (Some(failure), files, _) => {
            output.fail(failure, None);
            let what = match files {
                true => "its files are installed, its service is not",
                false => "its files are not in place",
            };
            output.insist(&format!("{node}: {what}"));
        }
    }
}

/// Sums it up; a failure of one node is not another's.
fn end(
    draft: &Draft,
    places: &[Place],
    own: Option<&Path>,
    done: &[Done],
    context: &Context,
) -> u8 {
    let failures: Vec<&Failure> = done.iter().filter_map(|it| it.failure.as_ref()).collect();
    let targets = (places.iter().zip(done))
        .map(|(place, done)| TargetSummary {
            result: if done.failure.is_some() {
                "failed"
            } else {
                "ok"
            },
            error: done.failure.as_ref().map(ErrorInfo::from),
            ..TargetSummary::named(place.node.clone())
        })
        .collect();
    let (result, exit_code) = match (failures.first(), failures.len() == done.len()) {
        (None, _) => ("ok", 0),
        (Some(first), true) => ("failed", first.kind.exit_code()),
        (Some(_), false) => ("partial", 8),
    };
    let output = &context.output;
    let file = own.map_or(String::new(), |own| format!(" -c {}", own.display()));
    match (failures.is_empty(), draft.volumes.first()) {
        (true, Some(volume)) => output.say(&format!(
            "next: lockstep doctor{file}; then lockstep plan{file} {}",
            volume.name
        )),
        _ => output.insist(
            "half installed: mend what is named above, then run the same command with --force",
        ),
    }
    output.summary(Summary {
        result,
        exit_code,
        targets,
        ..Summary::blank()
    });
    exit_code
}
