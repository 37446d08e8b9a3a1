//! `cargo xtask mutants`
//!
//! A crate like `pipeline` has two thousand mutants, so what one costs decides whether anybody runs
//! this. Two things made it hours: one mutant went after the other, since copies that share a target
//! folder wait for its lock, and each compiled the crate twice, for its tests and for nobody. Here
//! each core has a copy of the tree and a target folder of its own, which outlive the run, and in it
//! cargo-mutants changes files in place and builds the crate's own tests alone.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xtask::{root, target_folder};

use crate::process::{cargo, run};

/// Crates whose own tests are to notice wrong changes: they build without DataFusion, in seconds.
const CRATES: [&str; 4] = ["pipeline", "filter", "auth", "push"];

/// Crates that are tried when they are named, which is best done with `--file`: `connectors` has three thousand
/// mutants at 15 seconds each, and what it says to a server only the tests with that server notice.
const NAMED: [&str; 1] = ["connectors"];

/// Percent of the wrong changes that a crate's own tests must notice.
const CAUGHT_MIN: f64 = 85.0;

/// Tests that take so long hang; longer where the tests as they are take a tenth of it.
const TIMEOUT_MIN: Duration = Duration::from_secs(20);

/// Makes small wrong changes to a crate, one at a time, and counts those that its own tests notice.
///
/// # Errors
/// When there is no such crate, its tests fail as they are, or they notice too few of the changes.
pub fn mutants(only: Option<&str>, arguments: &[String]) -> Result<()> {
    let chosen: Vec<&str> = match only {
        None => CRATES.to_vec(),
        Some(only) => CRATES.into_iter().chain(NAMED).filter(|name| *name == only).collect(),
    };
    if chosen.is_empty() {
        let all = [&CRATES[..], &NAMED].concat().join(", ");
        bail!("there is no crate `{}` to make mutants of; there are {all}", only.unwrap_or_default());
    }
    find_or_install()?;
    let mut weak = Vec::new();
    for name in chosen {
        let caught = of_crate(name, arguments)?;
        if caught < CAUGHT_MIN {
            weak.push(format!("{name}: {caught:.1}"));
        }
    }
    if !weak.is_empty() {
        bail!("fewer than {CAUGHT_MIN} percent are caught: {}", weak.join(", "));
    }
    Ok(())
}

fn find_or_install() -> Result<()> {
    if cargo(&["mutants", "--version"]).output().is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    eprintln!("installing cargo-mutants");
    // Not in our target folder: it is no part of this workspace.
    run(cargo(&["install", "cargo-mutants", "--locked"]).env_remove("CARGO_TARGET_DIR"))
}

/// The features that a crate's tests want.
fn features(name: &str) -> &'static str {
    if name == "connectors" { "kafka,fluvio" } else { "" }
}

/// Percent of a crate's mutants that are caught.
fn of_crate(name: &str, arguments: &[String]) -> Result<f64> {
    let shards = thread::available_parallelism().map_or(1, usize::from);
    eprintln!("$ cargo mutants --package {name} {}   # in {shards} copies of the tree", arguments.join(" "));
    let folders: Vec<PathBuf> = (0..shards).map(|shard| target_folder().join(format!("mutants/{shard}"))).collect();
    let of_shard = |shard: usize| {
        let place = format!("{shard}/{shards}");
        of_shard(name, &folders[shard], &place, arguments).with_context(|| format!("in {}", folders[shard].display()))
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..shards).map(|shard| scope.spawn(move || of_shard(shard))).collect();
        running.into_iter().try_for_each(|shard| shard.join().expect("no thread panics"))
    })?;
    report(name, &folders)
}

/// Runs some of the mutants in a copy of the tree.
fn of_shard(name: &str, folder: &Path, shard: &str, arguments: &[String]) -> Result<()> {
    let tree = folder.join("tree");
    copy_tree(&tree)?;
    let in_tree = |arguments: &[&str]| {
        let mut command = cargo(arguments);
        command.current_dir(&tree).env("CARGO_TARGET_DIR", folder.join("target"));
        // Compiling anew what did not change would be most of a mutant's cost, and linking what
        // nobody reads in a backtrace much of the rest.
        command.env("CARGO_INCREMENTAL", "1").env("CARGO_PROFILE_DEV_DEBUG", "none");
        // A property that fails is to say so at once: no minutes of looking for a smaller example, and
        // no seed in the copy, which would be tried first with every later mutant.
        command.env("PROPTEST_MAX_SHRINK_ITERS", "0").env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
        command
    };
    // Unit tests and those of the crate's folder `tests`, and no examples of the documentation: each is
    // a program to link.
    let features = ["--package", name, "--features", features(name)];
    let quiet = [&["test", "--quiet", "--tests"], &features[..]].concat();
    run(in_tree(&quiet).arg("--no-run"))?;
    let start = Instant::now();
    run(in_tree(&quiet).stdout(Stdio::null())).context("the tests fail as they are")?;
    let timeout = TIMEOUT_MIN.max(start.elapsed() * 10).as_secs().to_string();

    let results = folder.join("mutants.out");
    if results.exists() {
        fs::remove_dir_all(&results)?;
    }
    let mut command = in_tree(&["mutants", "--in-place", "--baseline", "skip", "--timeout", &timeout]);
    command.args(features);
    // An argument for `cargo`, not for `cargo test`, holds when it builds as well.
    command.args([
        "--cargo-arg=--tests",
        "--colors",
        "never",
        "--shard",
        shard,
        "--sharding",
        "round-robin",
        "--output",
    ]);
    let mut child =
        command.arg(folder).args(arguments).stdout(Stdio::piped()).spawn().context("can't run cargo-mutants")?;
    for line in child.stdout.take().into_iter().flat_map(|told| BufReader::new(told).lines()) {
        println!("{}", line?);
    }
    let status = child.wait()?;
    // 2: some were missed; 3: tests hung for some. Anything else: there is no result.
    if !matches!(status.code(), Some(0 | 2 | 3)) {
        bail!("cargo-mutants failed ({status}); its log is in {}", results.join("log").display());
    }
    Ok(())
}

/// Copies what git knows of, or would, so that nobody's own files are ever the changed ones. Every
/// file is new, also where it is the same: one that a run left behind changed may have been built.
fn copy_tree(to: &Path) -> Result<()> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .context("can't run git")?;
    if !listed.status.success() {
        bail!("git can't list the files of {}", root().display());
    }
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    for path in String::from_utf8(listed.stdout)?.split_terminator('\0') {
        let (from, to) = (root().join(path), to.join(path));
        // Deleted, and git has not heard of it yet.
        if !from.is_file() {
            continue;
        }
        fs::create_dir_all(to.parent().unwrap_or(Path::new(".")))?;
        fs::copy(&from, &to).with_context(|| format!("can't copy {path}"))?;
    }
    Ok(())
}

/// Prints the survivors and the figure.
#[expect(clippy::cast_precision_loss, reason = "a percentage")]
fn report(name: &str, folders: &[PathBuf]) -> Result<f64> {
    let lines = |file: &str| -> Vec<String> {
        // A copy that had no mutant to try has no such file.
        let texts = folders.iter().filter_map(|folder| fs::read_to_string(folder.join("mutants.out").join(file)).ok());
        texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    };
    let (mut missed, timeouts) = (lines("missed.txt"), lines("timeout.txt"));
    missed.sort();
    // Tests that never end are noticed as well as tests that fail. What does not compile counts for
    // nothing.
    let caught = lines("caught.txt").len() + timeouts.len();
    let all = caught + missed.len();
    if all == 0 {
        bail!("no mutant of {name} could be tested");
    }
    println!("{name}: {caught} of {all} wrong changes are caught, {} of them by tests that hang", timeouts.len());
    for survivor in &missed {
        println!("  survives: {survivor}");
    }
    let percent = 100.0 * caught as f64 / all as f64;
    println!("figure mutants_caught_{name} {percent:.1} percent");
    Ok(percent)
}
