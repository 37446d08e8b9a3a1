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
