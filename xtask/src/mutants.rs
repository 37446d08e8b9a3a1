//! `cargo xtask mutants`

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use xtask::target_folder;

use crate::process::{cargo, run};

/// Crates whose own tests are to notice wrong changes: they build without DataFusion, in seconds.
const CRATES: [&str; 2] = ["pipeline", "push"];

/// Percent of the wrong changes that a crate's own tests must notice.
const CAUGHT_MIN: f64 = 85.0;

/// Makes small wrong changes to a crate, one at a time, and counts those that its own tests notice.
///
/// # Errors
/// When there is no such crate, its tests fail as they are, or they notice too few of the changes.
pub fn mutants(only: Option<&str>, arguments: &[String]) -> Result<()> {
    let chosen: Vec<&str> = CRATES.into_iter().filter(|name| only.is_none_or(|only| only == *name)).collect();
    if chosen.is_empty() {
        bail!(
            "there is no crate `{}` to make mutants of; there are {}",
            only.unwrap_or_default(),
            CRATES.join(" and ")
        );
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

/// Percent of a crate's mutants that are caught.
fn of_crate(name: &str, arguments: &[String]) -> Result<f64> {
    // A folder of their own: the workspace's folder is built with the features of all crates
    // together, and naming one crate is another set.
    let folder = target_folder().join("mutants");
    let output = folder.join(name);
    fs::create_dir_all(&output)?;
    // What a run leaves behind of our crates is of no use to the next, which works on another copy.
    run(cargo(&["clean", "--quiet", "--package", "pipeline", "--package", "push"]).env("CARGO_TARGET_DIR", &folder))?;
    let mut command = cargo(&["mutants", "--package", name, "--output"]);
    command.arg(&output).args(["--jobs", "1", "--colors", "never", "--cargo-test-arg", "--tests"]).args(arguments);
    // Linking is most of what a mutant costs, and nobody reads its backtraces.
    command.env("CARGO_TARGET_DIR", &folder).env("CARGO_PROFILE_DEV_DEBUG", "none");
    eprintln!("$ cargo mutants --package {name} {}", arguments.join(" "));
    let status = command.status().context("can't run cargo-mutants")?;
    // 2: some were missed; 3: tests hung for some. Anything else: there is no result.
    if !matches!(status.code(), Some(0 | 2 | 3)) {
        bail!("cargo-mutants failed ({status}); its log is in {}", output.join("mutants.out/log").display());
    }
    report(name, &output.join("mutants.out"))
}

/// Prints the survivors and the figure.
#[expect(clippy::cast_precision_loss, reason = "a percentage")]
fn report(name: &str, folder: &Path) -> Result<f64> {
    let lines = |file: &str| -> Result<Vec<String>> {
        let text = fs::read_to_string(folder.join(file)).with_context(|| format!("cargo-mutants left no {file}"))?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    let (missed, timeouts) = (lines("missed.txt")?, lines("timeout.txt")?);
    // Tests that never end are noticed as well as tests that fail. What does not compile counts for
    // nothing.
    let caught = lines("caught.txt")?.len() + timeouts.len();
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
