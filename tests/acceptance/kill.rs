//! Kills at random moments. Whatever happens, `gate` is never wrong, and the same command finishes.
//!
//! `LOCKSTEP_KILLS` says how many (50 for the whole figure), `LOCKSTEP_SEED` which moments.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::judge::{alive, differing, gone_within, kill, pid_in, same};
use super::lab::script;
use super::stand::{LOCKSTEP, Running, Stand, shell, volume};

const KILLS: u64 = 12;
const SEED: u64 = 20_261_123;
const SIZE: usize = 64 << 20;
/// Every so many pages one has drifted: 16 MiB of them.
const DRIFT: usize = 4;
/// A run takes about a second at this rate.
const RATE: &str = "14M";
/// Kills fall into this time after the far side has started.
const MOMENTS_MILLIS: u64 = 1500;

/// xorshift64: Marsaglia, "Xorshift RNGs", 2003.
struct Moments(u64);

impl Moments {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Near,
    Far,
}

/// A source `a`, and what a target is made of before each kill.
struct Field {
    stand: Stand,
    a: PathBuf,
    b: PathBuf,
    drifted: PathBuf,
    target: String,
    shell: PathBuf,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn killed_at_any_moment_no_gate_lies_and_the_same_command_finishes() {
    let field = Field::new();
    let mut moments = Moments(number("LOCKSTEP_SEED", SEED));
    let (mut interrupted, kills) = (0, number("LOCKSTEP_KILLS", KILLS));
    for round in 0..kills {
        let side = [Side::Near, Side::Far][usize::from(round % 2 == 1)];
        let moment = Duration::from_millis(moments.below(MOMENTS_MILLIS));
        let fresh = moments.below(4) == 0;
        let story = format!("round {round}: {side:?} killed after {moment:?}, fresh: {fresh}");
        field.prepare(fresh);
        field.run_and_kill(side, moment);
        interrupted += u64::from(!field.judge(&story));
        field.finish(&story);
    }
    assert!(
        interrupted * 3 >= kills,
        "only {interrupted} of {kills} kills came before the end"
    );
}

impl Field {
    fn new() -> Field {
        let stand = Stand::new();
        let mut bytes = volume(SIZE, 1);
        let a = stand.file("a", &bytes);
        for page in bytes.chunks_mut(4096 * DRIFT) {
            page[99] ^= 0x5a;
            // Not to be squeezed into nothing.
            page[4000] = page[4000].wrapping_add(1);
        }
        let drifted = stand.file("drifted", &bytes);
        let b = stand.path("b");
        let lines = format!(
            "echo $$ >{}\nshift\nexec \"$@\"",
            stand.path("pid").display()
        );
        Field {
            target: format!("127.0.0.1:{}", b.display()),
            shell: script(&stand, "shell", &lines),
            stand,
            a,
            b,
            drifted,
        }
    }

    /// A target that no ledger knows: another file of the same name, or none.
    fn prepare(&self, fresh: bool) {
        for name in ["b", ".b.lockstep-partial", "pid"] {
            let _ = fs::remove_file(self.stand.path(name));
        }
        if !fresh {
            fs::copy(&self.drifted, &self.b).unwrap();
        }
    }

    fn run_and_kill(&self, side: Side, moment: Duration) {
        let mut running = Running::start(&mut self.stand.command(&[
            "sync",
            "a",
            &self.target,
            "--yes",
            "--compress",
            "off",
            "--limit-rate",
            RATE,
            "-e",
            self.shell.to_str().unwrap(),
            "--remote-path",
            LOCKSTEP,
        ]));
        let far = pid_in(&self.stand.path("pid"));
        std::thread::sleep(moment);
        match side {
            Side::Near => running.child().kill().unwrap(),
            Side::Far => kill(far),
        }
        // At once, and again when both are gone.
        self.judge("while the other side ends");
        running.end();
        assert!(gone_within(far, Duration::from_secs(10)) && !alive(far));
    }

    /// Whether the gate is open, which it may be only for equal files.
    #[track_caller]
    fn judge(&self, story: &str) -> bool {
        let code = self.stand.run(&["gate", "b"]).code;
        assert!([0, 10, 22].contains(&code), "gate: {code}, {story}");
        let open = code == 0;
        assert!(!open || self.equal(), "the gate lies, {story}");
        open
    }

    fn equal(&self) -> bool {
        self.b.exists() && same(&self.a, &self.b)
    }

    /// The same command, at full speed, and once more.
    #[track_caller]
    fn finish(&self, story: &str) {
        let partial = self.stand.path(".b.lockstep-partial");
        let left = [&self.b, &partial]
            .into_iter()
            .find(|path| path.exists())
            .map(|path| self.left(path));
        assert_eq!(self.sync(story), left, "only what was missing, {story}");
        assert!(self.equal(), "{story}");
        self.stand.run(&["gate", "b"]).exits(0);
        assert_eq!(self.sync(story), Some(0), "{story}");
    }

    fn left(&self, path: &Path) -> u64 {
        differing(&self.a, path)
    }

    /// Bytes written, or nothing where there was no target to be compared with.
    #[track_caller]
    fn sync(&self, story: &str) -> Option<u64> {
        let shell = shell();
        let mut arguments = vec!["sync", "a", &self.target, "--yes", "-v"];
        arguments.extend(shell.iter().map(String::as_str));
        let events = self.stand.events(&arguments);
        assert_eq!(
            events.code,
            0,
            "{story}: {:#}\n{}",
            events.summary(),
            events.stderr
        );
        let created = events.of_type("preflight")[0]["plan"] == "create";
        (!created).then(|| events.count("bytes_written"))
    }
}
