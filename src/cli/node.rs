//! `node`: this machine's key, and whose keys the cluster file trusts.

use std::fs;
use std::path::Path;

use clap::{Args, Subcommand};
use lockstep_cluster::ClusterFile;
use lockstep_cluster::file::{FileError, Keeping, TrustError, Trusted, trust};
use lockstep_cluster::key::{KeyError, KeyStore, NodeKeys, PublicKey, Rotation};
use lockstep_cluster::value::{Address, NodeName, OperatorName, Unfit};
use lockstep_protocol::{Failure, FailureKind};

use super::Context;
use super::request::state_dir;
use crate::cluster_file;
use crate::events::{Event, Key, Summary};
use crate::failure::{chain, usage};

/// Show and rotate this machine's key; trust another's.
///
/// A state directory has one key, which is a node's or an operator's.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Print the public key, made on first use, alone on stdout
    Show,
    /// Make the next key and print it; the one in use stays until --finish
    RotateKey {
        /// Use the next key from now on; the cluster file has to name it
        #[arg(long, conflicts_with = "cancel")]
        finish: bool,
        /// Drop the next key
        #[arg(long)]
        cancel: bool,
        /// With --finish: do not look into the cluster file
        #[arg(long, requires = "finish")]
        unlisted: bool,
    },
    /// Add a key to the cluster file, for a node or operator that is there or new
    Trust(TrustArguments),
}

#[derive(Args, Debug)]
struct TrustArguments {
    /// The node, or the operator
    #[arg(value_name = "NAME")]
    name: String,
    /// What `lockstep node show` prints there
    #[arg(value_name = "KEY")]
    key: String,
    /// NAME is an operator
    #[arg(long, conflicts_with = "address")]
    operator: bool,
    /// Where a new node is reached
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Trust this key alone from now on; without it, an earlier one stays good
    #[arg(long)]
    only: bool,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    match &arguments.verb {
        Verb::Show => show(context)?,
        Verb::RotateKey {
            finish: true,
            unlisted,
            ..
        } => finish(*unlisted, context)?,
        Verb::RotateKey { cancel: true, .. } => cancel(context)?,
        Verb::RotateKey { .. } => begin(context)?,
        Verb::Trust(arguments) => add(arguments, context)?,
    }
    context.output.summary(Summary::blank());
    Ok(0)
}

fn show(context: &Context) -> Result<(), Failure> {
    let keys = store(context)?.open().map_err(|error| failed(&error))?;
    let current = keys.current.public();
    tell(&keys, current, context);
    if let Some(next) = &keys.next {
        let next = next.public();
        context.output.say(&format!(
            "a rotation was begun; the next key is {next}, fingerprint {}",
            next.fingerprint()
        ));
    }
    Ok(())
}

fn begin(context: &Context) -> Result<(), Failure> {
    let keys = store(context)?
        .begin_rotation()
        .map_err(|error| failed(&error))?;
    let next = keys.next.as_ref().unwrap_or(&keys.current).public();
    tell(&keys, next, context);
    context.output.say("this key is not used yet. On every machine, `lockstep node trust NAME KEY` adds it to the cluster file;");
    context.output.say("then `lockstep node rotate-key --finish` here, and `lockstep node trust --only NAME KEY` on every machine");
    Ok(())
}

fn finish(unlisted: bool, context: &Context) -> Result<(), Failure> {
    let store = store(context)?;
    let keys = store.look().map_err(|error| failed(&error))?;
    if let Some(NodeKeys {
        current,
        next: Some(next),
    }) = keys.as_ref().filter(|_| !unlisted)
    {
        let path = cluster_file::locate(context.cluster.as_deref())?;
        let cluster = cluster_file::read(&path, &context.output)?;
        is_listed(&cluster, current.public(), next.public(), &path)?;
    }
    let keys = store
        .end_rotation(Rotation::Finish)
        .map_err(|error| failed(&error))?;
    tell(&keys, keys.current.public(), context);
    Ok(())
}

fn cancel(context: &Context) -> Result<(), Failure> {
    let keys = store(context)?
        .end_rotation(Rotation::Cancel)
        .map_err(|error| failed(&error))?;
    tell(&keys, keys.current.public(), context);
    context.output.say("if the dropped key was added to a cluster file, remove it there: `lockstep node trust --only NAME KEY`");
    Ok(())
}

/// A key that nobody else knows would lock this machine out.
fn is_listed(
    cluster: &ClusterFile,
    current: PublicKey,
    next: PublicKey,
    path: &Path,
) -> Result<(), Failure> {
    let nodes = cluster.nodes.iter().map(|node| &node.keys);
    let each: Vec<_> = nodes
        .chain(cluster.operators.iter().map(|operator| &operator.keys))
        .collect();
    // No two share a key: whoever has the current one has to have the next.
    let owner = each.iter().find(|keys| keys.accept(&current));
    let listed = match owner {
        Some(owner) => owner.accept(&next),
        None => each.iter().any(|keys| keys.accept(&next)),
    };
    if listed {
        return Ok(());
    }
    let message = format!("{} does not name the next key, {next}", path.display());
    let owner = cluster
        .nodes
        .iter()
        .find(|node| node.keys.accept(&current))
        .map_or("NAME".to_owned(), |node| node.name.to_string());
    Err(Failure::new(FailureKind::Guard, message).hint(format!(
        "`lockstep node trust {owner} {next}` on every machine, or the others would not know this one; --unlisted goes ahead"
    )))
}

fn add(arguments: &TrustArguments, context: &Context) -> Result<(), Failure> {
    let unfit = |unfit: Unfit| usage(unfit.what).hint(unfit.remedy);
    let key: PublicKey = arguments.key.parse().map_err(unfit)?;
    let whom = match arguments.operator {
        true => Trusted::Operator(arguments.name.parse::<OperatorName>().map_err(unfit)?),
        false => Trusted::Node {
            name: arguments.name.parse::<NodeName>().map_err(unfit)?,
            address: arguments
                .address
                .as_deref()
                .map(str::parse::<Address>)
                .transpose()
                .map_err(unfit)?,
        },
    };
    let keeping = match arguments.only {
        true => Keeping::Nothing,
        false => Keeping::Earlier,
    };
    let output = &context.output;
    let path = cluster_file::locate(context.cluster.as_deref())?;
    // Read as every reader does first: that bounds its size.
    cluster_file::read(&path, output)?;
    let text = fs::read_to_string(&path).map_err(|source| {
        let error = FileError::Io {
            path: path.clone(),
            source,
        };
        cluster_file::failed(error, output)
    })?;
    let name = &arguments.name;
    match trust(&text, &path, &whom, key, keeping).map_err(|error| refused(error, context))? {
        None => output.say(&format!("{} says so already", path.display())),
        Some(changed) => {
            cluster_file::replace(&path, &text, &changed)?;
            output.say(&format!(
                "{} trusts {name} by the key with the fingerprint {}",
                path.display(),
                key.fingerprint()
            ));
        }
    }
    Ok(())
}

fn refused(error: TrustError, context: &Context) -> Failure {
    let hint = match &error {
        TrustError::Mistakes(mistakes) => return cluster_file::tell(mistakes, &context.output),
        TrustError::TwoKeys { .. } => "two is the most; --only makes this one the only one",
        TrustError::NoAddress { .. } => {
            "add --address HOST:PORT for a new node, or --operator if it is one"
        }
        TrustError::OtherAddress { .. } => "leave out --address, or change it in the file",
        TrustError::Unusual { .. } => "write it so, or add the key by hand",
    };
    usage(chain(&error)).hint(hint)
}

/// A key for programs on stdout; for people, whose it is.
fn tell(keys: &NodeKeys, key: PublicKey, context: &Context) {
    let output = &context.output;
    let current = keys.current.public();
    output.event(&Event::Key(Key {
        key: current.to_string(),
        fingerprint: current.fingerprint().to_string(),
        next: keys.next.as_ref().map(|next| next.public().to_string()),
    }));
    output.datum(format!("{key}\n").as_bytes());
    output.say(&format!("fingerprint {}", key.fingerprint()));
}

fn store(context: &Context) -> Result<KeyStore, Failure> {
    Ok(KeyStore::at(&state_dir(context.state_dir.as_deref())?))
}

fn failed(error: &KeyError) -> Failure {
    let kind = match error {
        KeyError::Exposed { .. } => FailureKind::Guard,
        KeyError::NotRotating { .. } => FailureKind::Usage,
        KeyError::Locked { .. } => FailureKind::Busy,
        KeyError::Io { .. } | KeyError::Damaged { .. } => FailureKind::Io,
        KeyError::Refused(_) => FailureKind::Internal,
    };
    Failure::new(kind, chain(error)).hint(error.remedy())
}
