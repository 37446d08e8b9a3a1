//! Running programs.

use std::process::Command;

use anyhow::{Context, Result, bail};
use xtask::{root, target_folder};

/// Cargo, in the workspace, building where all clones build.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root()).env("CARGO_TARGET_DIR", target_folder());
    command
}

/// What the tests have beside what a first build has: the connectors of Kafka and Fluvio, each of which brings a client
/// library of minutes to compile. A demo goes without. All chores that look at the whole workspace have the same, since
/// cargo unites features, and another set of them would compile DataFusion once more.
const FEATURES: &str = "tests/kafka,tests/fluvio,benches/kafka";

/// Cargo on the whole workspace, with the features of the tests.
pub fn cargo_on_all(chore: &str) -> Command {
    cargo(&[chore, "--workspace", "--features", FEATURES])
}

/// Makes sure that what the target folder holds of our own crates was compiled from this clone.
///
/// Clones share the folder for the sake of DataFusion. Cargo tells their crates apart by nothing but
/// the times of their files, so a clone whose files are older than another's build would run that
/// build. When the clone changes, our crates are compiled anew.
///
/// # Errors
/// When the folder can't be written.
pub fn claim_target_folder() -> Result<()> {
    let note = target_folder().join("compiled-from");
    let here = root().canonicalize()?.display().to_string();
    if std::fs::read_to_string(&note).is_ok_and(|there| there == here) {
        return Ok(());
    }
    if target_folder().exists() {
        let members =
            ["pipeline", "filter", "sql", "connectors", "auth", "push", "server", "tests", "benches", "xtask"];
        let mut clean = cargo(&["clean", "--quiet"]);
        for member in members {
            clean.args(["--package", member]);
        }
        if !clean.stderr(std::process::Stdio::null()).status()?.success() {
            bail!("can't clean the target folder of what another clone compiled");
        }
    }
    std::fs::create_dir_all(target_folder())?;
    Ok(std::fs::write(note, here)?)
}

/// Runs a program to its end.
///
/// # Errors
/// When it can't be run or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    eprintln!("$ {shown}");
    let status = command.status().with_context(|| format!("can't run {shown}"))?;
    if !status.success() {
        bail!("`{shown}` failed");
    }
    Ok(())
}

fn show(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words: Vec<_> = std::iter::once(program).chain(command.get_args()).map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}
