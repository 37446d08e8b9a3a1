//! `cargo xtask test`, `lint` and `bless`

use std::path::Path;

use anyhow::{Result, bail};
use xtask::kafka;
use xtask::postgres::{apt_install, find_or_install};

use crate::process::{cargo, cargo_on_all, run};
use crate::{autobahn, client, compose};

/// The parts of an ordinary run, with the arguments by which cargo runs them.
///
/// Every call names the whole workspace, and the same features ([`cargo_on_all`]): cargo unites the
/// features of the packages that a call names, and another set would compile DataFusion once more.
const PARTS: [(&str, &[&str]); 6] = [
    ("unit", &["--lib", "--bins", "--test", "mistakes", "--test", "filters", "--test", "templates"]),
    ("oracle", &["--test", "oracle"]),
    ("e2e", &["--test", "e2e"]),
    ("kafka", &["--test", "kafka"]),
    ("slt", &["--test", "slt"]),
    ("browser", &["--test", "browser"]),
];

/// Sets up what the tests need and runs them.
///
/// # Errors
/// When a test fails, or what it needs can't be had.
pub fn test(part: Option<&str>, filter: Option<&str>) -> Result<()> {
    if part == Some("compose") {
        return compose::test();
    }
    if part == Some("autobahn") {
        return autobahn::test(filter);
    }
    if part == Some("client") {
        eprintln!("Postgres: {}", find_or_install()?.display());
        eprintln!("Chromium: {}", find_or_install_chromium()?);
        return client::test(filter);
    }
    let chosen: Vec<_> = PARTS.iter().filter(|(name, _)| part.is_none_or(|part| part == *name)).collect();
    if chosen.is_empty() {
        bail!(
            "there is no part `{}`; there are unit, oracle, e2e, kafka, slt, browser, client, compose and autobahn",
            part.unwrap_or_default()
        );
    }
    eprintln!("Postgres: {}", find_or_install()?.display());
    if chosen.iter().any(|(name, _)| *name == "browser") {
        eprintln!("Chromium: {}", find_or_install_chromium()?);
    }
    if chosen.iter().any(|(name, _)| *name == "kafka") {
        kafka::set_up()?;
    }
    run(cargo_on_all("test").arg("--no-run"))?;
    for (name, arguments) in chosen {
        eprintln!("== {name}");
        let mut command = cargo_on_all("test");
        command.args(*arguments).args(filter).arg("--");
        // Servers share two cores in CI: few tests at a time are quicker, and steadier.
        match *name {
            "e2e" | "slt" | "browser" => drop(command.arg("--test-threads=4")),
            // Each has a broker, some Debezium as well: 200 MB and a core until it has started.
            "kafka" => drop(command.arg("--test-threads=2")),
            _ => {}
        }
        run(&mut command)?;
    }
    if part.is_none() {
        eprintln!("== client");
        client::test(None)?;
        eprintln!("== doc");
        run(cargo_on_all("test").arg("--doc"))?;
    }
    Ok(())
}

fn find_or_install_chromium() -> Result<String> {
    let find = || {
        ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]
            .into_iter()
            .find(|path| Path::new(path).exists())
    };
    let has_driver = || Path::new("/usr/bin/chromedriver").exists();
    if find().is_none() || !has_driver() {
        eprintln!("installing the packages chromium and chromium-driver");
        apt_install(&["chromium", "chromium-driver"])?;
    }
    match find() {
        Some(path) if has_driver() => Ok(path.to_owned()),
        _ => bail!("no Chromium with its driver was found; install both"),
    }
}

/// What CI checks before the tests.
///
/// # Errors
/// When something is to be put right.
pub fn lint(fix: bool) -> Result<()> {
    if fix {
        return run(&mut cargo(&["fmt", "--all"]));
    }
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    run(cargo_on_all("clippy").args(["--all-targets", "--", "--deny", "warnings"]))?;
    run(cargo_on_all("doc").args(["--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "--deny warnings"))?;
    // Licences and advisories are checked where cargo-deny is at hand.
    if cargo(&["deny", "--version"]).output().is_ok_and(|output| output.status.success()) {
        run(&mut cargo(&["deny", "--offline", "check", "licenses", "bans", "sources"]))?;
    }
    Ok(())
}

/// Accepts what snapshot tests got.
///
/// # Errors
/// When a test fails for another reason.
pub fn bless() -> Result<()> {
    run(cargo_on_all("test").arg("--lib").env("UPDATE_EXPECT", "1"))
}
