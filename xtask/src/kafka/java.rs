//! Java, and programs of it that run beside us.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::postgres::apt_install;

/// What Kafka 4 needs.
const VERSION_MIN: u32 = 17;

/// How long a program may take until it is ready. On a quiet machine it is a few seconds; eighteen others on two cores
/// made it 24.
const START_TIMEOUT: Duration = Duration::from_secs(180);

/// A `java` that is new enough.
#[derive(Clone, Debug)]
pub struct Java {
    /// Where it is.
    pub program: PathBuf,
    /// As it says itself: `17.0.15`.
    pub version: String,
}

/// Finds Java 17 or newer, or installs the distribution's package.
///
/// # Errors
/// When there is none and it can't be installed, with what to do.
pub fn find_or_install_java() -> Result<Java> {
    if let Some(java) = find_java() {
        return Ok(java);
    }
    eprintln!("no Java {VERSION_MIN} or newer was found; installing one");
    // A distribution's default may be older than 17, and its newest release may have no 17 any more.
    let advice = format!("install Java {VERSION_MIN} or newer, and have it on the PATH");
    let packages = [format!("openjdk-{VERSION_MIN}-jre-headless"), "default-jre-headless".to_owned()];
    let installed = packages.iter().map(|package| apt_install(&[package])).find(Result::is_ok);
    installed.unwrap_or_else(|| bail!("no package of it could be installed")).with_context(|| advice.clone())?;
    find_java().context(advice)
}

fn find_java() -> Option<Java> {
    let home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
    // One that is installed need not be the one on the PATH.
    let installed = fs::read_dir("/usr/lib/jvm").into_iter().flatten().flatten();
    let candidates =
        home.into_iter().chain(on_path("java")).chain(installed.map(|entry| entry.path().join("bin/java")));
    candidates.filter_map(|program| Some(Java { version: version_of(&program)?, program })).find(is_new_enough)
}

fn is_new_enough(java: &Java) -> bool {
    let digits = java.version.split(|character: char| !character.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().is_ok_and(|major: u32| major >= VERSION_MIN)
}

/// What `java -version` has between quotes: `openjdk version "17.0.15" 2025-04-15`.
fn version_of(java: &Path) -> Option<String> {
    let output = Command::new(java).arg("-version").stdin(Stdio::null()).output().ok()?;
    let told = String::from_utf8(output.stderr).ok()?;
    Some(told.split('"').nth(1)?.to_owned())
}

/// A program of this name on the PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// How a program is ended.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// It is asked to, and killed when it takes longer than this.
    Ask(Duration),
    /// As by a power cut.
    Kill,
}

/// A program that runs until this is dropped, or until this process is gone, however it went.
#[derive(Debug)]
pub struct Running {
    child: Child,
    leash: Child,
    log: PathBuf,
    /// Where its words begin in the log, bytes: below are those of one that ran before.
    log_start: u64,
}

impl Running {
    /// Starts it. What it says goes to the end of a log.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Running> {
        let file = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let log_start = file.metadata()?.len();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("can't run {}", command.get_program().display()))?;
        // A test that is killed drops nothing. Its end of this pipe closes even so, and the shell goes on.
        let leash = Command::new("sh")
            .args(["-c", "read gone; kill -KILL $0", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match leash {
            Ok(leash) => Ok(Running { child, leash, log: log.to_owned(), log_start }),
            Err(cause) => {
                let _ = child.kill().and_then(|()| child.wait());
                Err(cause).context("can't run sh")
            }
        }
    }

    /// Waits until it is ready, as seen from what it has said so far.
    ///
    /// # Errors
    /// When it ends, fails (as seen from the same) or takes too long, with what it said last.
    pub fn wait(
        &mut self,
        name: &str,
        mut is_ready: impl FnMut(&str) -> bool,
        has_failed: fn(&str) -> bool,
    ) -> Result<()> {
        let started = Instant::now();
        loop {
            let ended = self.has_ended();
            let said = self.said();
            if ended || has_failed(&said) || started.elapsed() > START_TIMEOUT {
                let last: Vec<&str> = said.lines().rev().take(40).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                bail!("{name} does not start:\n{}", last.join("\n"));
            }
            if is_ready(&said) {
                return Ok(());
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has said since its start.
    pub fn said(&self) -> String {
        let mut said = Vec::new();
        // A log that can't be read says nothing.
        let _ = fs::File::open(&self.log).and_then(|mut log| {
            log.seek(SeekFrom::Start(self.log_start))?;
            log.read_to_end(&mut said)
        });
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Ends it, and returns when it is gone.
    pub fn end(&mut self, end: End) {
        if let End::Ask(patience) = end
            && !self.has_ended()
        {
            let _ = Command::new("kill").arg(self.child.id().to_string()).stderr(Stdio::null()).status();
            let started = Instant::now();
            while !self.has_ended() && started.elapsed() < patience {
                sleep(Duration::from_millis(20));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its process id may be another's from now on.
        let _ = self.leash.kill();
        let _ = self.leash.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(End::Kill);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn java(version: &str) -> Java {
        Java { program: PathBuf::new(), version: version.to_owned() }
    }

    #[test]
    fn versions_are_told_apart() {
        assert!(["17.0.15", "17-ea", "21", "25.0.1"].into_iter().all(|version| is_new_enough(&java(version))));
        assert!(!["1.8.0_392", "11.0.2", "", "x"].into_iter().any(|version| is_new_enough(&java(version))));
    }

    fn shell(script: &str, log: &Path) -> Running {
        Running::start(Command::new("sh").args(["-c", script]), log).expect("a shell")
    }

    #[test]
    fn what_ends_before_it_is_ready_is_told_with_its_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut running = shell("echo no room; exit 1", &folder.path().join("log"));
        let error = running.wait("it", |_| false, |_| false).expect_err("it ended");
        assert_eq!(error.to_string(), "it does not start:\nno room");
    }

    /// The broker that starts again after a kill found itself ready by the words of the one before.
    #[test]
    fn words_of_an_earlier_run_make_nobody_ready() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let mut first = shell("echo ready; exec sleep 100", &log);
        first.wait("it", |said| said.contains("ready"), |_| false).expect("ready");
        first.end(End::Kill);
        let mut second = shell("exit 0", &log);
        second.wait("it", |said| said.contains("ready"), |_| false).expect_err("it ended");
    }

    #[test]
    fn who_does_not_end_when_asked_is_killed() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut deaf = shell("trap '' TERM; echo ready; while :; do sleep 0.1; done", &folder.path().join("log"));
        deaf.wait("it", |said| said.contains("ready"), |_| false).expect("ready");
        deaf.end(End::Ask(Duration::from_millis(100)));
        assert!(deaf.has_ended());
    }

    /// As when a test is killed: nothing is dropped, and the pipe to the leash closes.
    #[test]
    fn nothing_outlives_this_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut running = shell("exec sleep 100", &folder.path().join("log"));
        drop(running.leash.stdin.take());
        let started = Instant::now();
        while !running.has_ended() {
            assert!(started.elapsed() < Duration::from_secs(20), "it outlives us");
            sleep(Duration::from_millis(10));
        }
    }
}
