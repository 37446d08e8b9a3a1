//! What the Kafka tests run, fetched from Maven Central once a machine.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::java::{find_or_install_java, on_path};
use crate::postgres::apt_install;
use crate::{cache_folder, root};

/// A profile of `tests/kafka/pom.xml`.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// Kafka's broker and its tools.
    Broker,
    /// The schema registry.
    Registry,
    /// Kafka Connect with Debezium in it.
    Debezium,
}

impl Part {
    fn profile(self) -> &'static str {
        match self {
            Part::Broker => "broker",
            Part::Registry => "registry",
            Part::Debezium => "debezium",
        }
    }
}

/// The folder of a part's jars, fetched when this machine has them not yet.
///
/// # Errors
/// When it can't be had: Maven Central can't be reached, or Java or Maven not be installed.
pub fn fetch(part: Part) -> Result<PathBuf> {
    let pom = kafka_file("pom.xml");
    let text = fs::read(&pom).with_context(|| format!("can't read {}", pom.display()))?;
    // Another list of jars is another folder: clones may differ, and one may be running.
    let mut hash = DefaultHasher::new();
    text.hash(&mut hash);
    let folder = cache_folder().join("kafka").join(format!("{}-{:016x}", part.profile(), hash.finish()));
    once(&folder, |unfinished| maven(part, &pom, unfinished))?;
    Ok(folder)
}

/// A file of `tests/kafka`.
pub fn kafka_file(name: &str) -> PathBuf {
    root().join("tests/kafka").join(name)
}

/// Java's class path of all jars in a folder, in the same order each time: a class archive is good for one order.
///
/// # Errors
/// When the folder can't be read.
pub fn class_path(folder: &Path) -> Result<String> {
    let mut jars = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jar") {
            jars.push(path.display().to_string());
        }
    }
    jars.sort();
    Ok(jars.join(":"))
}

/// Makes a folder unless it is there, once, however many processes ask for it at the same time. It is made under
/// another name, so that where the folder is, it is whole.
///
/// # Errors
/// When it can't be made.
pub fn once(folder: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let beside = |what: &str| PathBuf::from(format!("{}.{what}", folder.display()));
    fs::create_dir_all(folder.parent().unwrap_or(Path::new(".")))?;
    let lock = File::create(beside("lock"))?;
    lock.lock()?;
    if folder.exists() {
        return Ok(());
    }
    let unfinished = beside("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fs::create_dir_all(&unfinished)?;
    make(&unfinished)?;
    Ok(fs::rename(&unfinished, folder)?)
}

fn maven(part: Part, pom: &Path, to: &Path) -> Result<()> {
    find_or_install_java()?;
    let mvn = find_or_install_maven()?;
    eprintln!("fetching Kafka's {} from Maven Central", part.profile());
    let output = Command::new(&mvn)
        .args(["--batch-mode", "--quiet", "--no-transfer-progress", "-Dstyle.color=never", "-P", part.profile(), "-f"])
        .arg(pom)
        .arg(format!("-Dto={}", to.display()))
        .arg("initialize")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("can't run {}", mvn.display()))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stdout);
        let reason = first_error(&told).unwrap_or("mvn failed and said nothing");
        bail!("neither Maven Central nor {}=host:port is reachable: {reason}", super::GIVEN);
    }
    Ok(())
}

/// The first line of Maven's that says what is wrong; some that it marks as errors are empty.
fn first_error(told: &str) -> Option<&str> {
    let errors = told.lines().filter_map(|line| line.split_once("[ERROR]"));
    errors.map(|(_, error)| error.trim()).find(|error| !error.is_empty())
}

fn find_or_install_maven() -> Result<PathBuf> {
    if let Some(mvn) = on_path("mvn") {
        return Ok(mvn);
    }
    eprintln!("no Maven was found; installing the package maven");
    let advice = "install Maven, and have mvn on the PATH";
    apt_install(&["maven"]).context(advice)?;
    on_path("mvn").context(advice)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn the_first_error_with_words_counts() {
        let told = "[WARNING] old\n[ERROR] \n\u{1b}[0m[ERROR] no route -> [Help 1]\n[ERROR] to see more\n";
        assert_eq!(first_error(told), Some("no route -> [Help 1]"));
        assert_eq!(first_error("killed"), None);
    }

    #[test]
    fn what_many_ask_for_is_made_once() {
        let parent = tempfile::tempdir().expect("a folder");
        let (folder, made) = (parent.path().join("jars-4.3.1"), AtomicU32::new(0));
        let ask = || {
            once(&folder, |unfinished| {
                made.fetch_add(1, Ordering::Relaxed);
                thread::sleep(std::time::Duration::from_millis(50));
                Ok(fs::write(unfinished.join("a.jar"), "")?)
            })
            .expect("a folder");
            assert!(folder.join("a.jar").exists());
        };
        thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(ask))));
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn what_fails_half_way_is_made_anew() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("jars");
        let half = |unfinished: &Path| {
            fs::write(unfinished.join("half.jar"), "")?;
            bail!("the line is cut")
        };
        once(&folder, half).expect_err("it failed");
        assert!(!folder.exists());
        once(&folder, |unfinished| Ok(fs::write(unfinished.join("whole.jar"), "")?)).expect("a folder");
        assert_eq!(class_path(&folder).expect("a path"), folder.join("whole.jar").display().to_string());
    }
}
