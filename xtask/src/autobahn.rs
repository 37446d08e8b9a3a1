//! `cargo xtask test autobahn`
//!
//! The suite is a package of the Python registry that knows Python 2.7 and nothing newer. Where a
//! machine has none, Debian 11's is unpacked beside it: it needs no place in the system.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xtask::postgres::apt_install;
use xtask::target_folder;

use crate::process::{cargo, run};

/// The suite, and the last of what installs packages that knows Python 2.7.
const SUITE: &str = "autobahntestsuite==25.10.1";
const PIP: &str = "pip==20.3.4";
const TOOLS: [&str; 3] = [PIP, "setuptools==44.1.1", "wheel==0.37.1"];

/// The cases that every server has to pass.
const CORE: &str = "1.*,2.*,3.*,4.*,5.*,6.*,7.*,9.*,10.*";

/// What Python 2.7 is made of in Debian 11, with the libraries that later releases have no more; the
/// suite compiles two small modules, so headers are among it.
const PACKAGES: [&str; 7] = [
    "python2.7-minimal",
    "libpython2.7-minimal",
    "libpython2.7-stdlib",
    "python2.7-dev",
    "libpython2.7-dev",
    "libssl1.1",
    "libffi7",
];

/// Prints `CASE BEHAVIOR CLOSE` a line: the report is JSON, which the suite's own language reads.
const REPORT: &str = "import json, sys
for cases in json.load(open(sys.argv[1])).values():
    for case, told in cases.items():
        print('%s %s %s' % (case, told['behavior'].replace(' ', '_'), told['behaviorClose'].replace(' ', '_')))";

/// Runs the suite against an echo server made of the product's sockets: all of it, which takes half an
/// hour for the sake of compression, or `cases` such as `6.*,7.1.*`, or `core`: all that is no extension,
/// in a minute.
///
/// # Errors
/// When a case fails, or what it needs can't be had.
pub fn test(cases: Option<&str>) -> Result<()> {
    let cases = match cases.unwrap_or("*") {
        "core" => CORE,
        cases => cases,
    };
    let cases: Vec<String> = cases.split(',').map(|cases| format!("\"{cases}\"")).collect();
    let folder = target_folder().join("autobahn");
    let python = install(&folder)?;
    // The suite sends gigabytes: what looks at each byte is optimised, and the rest is as in other tests.
    let mut build = cargo(&["build", "--package", "push", "--example", "echo"]);
    for package in ["push", "zlib-rs"] {
        build.arg("--config").arg(format!("profile.dev.package.{package}.opt-level=3"));
    }
    run(&mut build)?;
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let mut server = Command::new(target_folder().join("debug/examples/echo"));
    let _server = Ended(server.arg(address.to_string()).stdout(Stdio::null()).spawn().context("can't start echo")?);
    let started = Instant::now();
    while TcpStream::connect(address).is_err() {
        if started.elapsed() > Duration::from_secs(10) {
            bail!("echo does not listen on {address}");
        }
        sleep(Duration::from_millis(50));
    }
    let reports = folder.join("reports");
    let _ = fs::remove_dir_all(&reports);
    fs::write(
        folder.join("spec.json"),
        format!(
            r#"{{"outdir": "{}", "servers": [{{"agent": "deltafront", "url": "ws://{address}"}}],
                "cases": [{}], "exclude-cases": [], "exclude-agent-cases": {{}}}}"#,
            reports.display(),
            cases.join(", ")
        ),
    )?;
    let mut suite = python.command(&folder);
    suite.arg(folder.join("lib/bin/wstest")).args(["-m", "fuzzingclient", "-s", "spec.json"]);
    run(suite.current_dir(&folder).stdout(fs::File::create(folder.join("log"))?))?;
    let told = python.command(&folder).args(["-c", REPORT]).arg(reports.join("index.json")).output()?;
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    report(&String::from_utf8_lossy(&told.stdout))?;
    eprintln!("took {minutes:.1} minutes; each case is a page in {}", reports.display());
    Ok(())
}

/// Prints counts and figures.
fn report(told: &str) -> Result<()> {
    let mut failed = Vec::new();
    for (group, is_compression) in [("core", false), ("compression", true)] {
        let (mut passed, mut informational, mut declined) = (0, 0, 0);
        for line in told.lines() {
            let [case, behavior, close] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
            if (case.starts_with("12.") || case.starts_with("13.")) != is_compression {
                continue;
            }
            match behavior {
                // An offer of compression that was passed over.
                "UNIMPLEMENTED" if is_compression => declined += 1,
                "INFORMATIONAL" => informational += 1,
                "OK" if matches!(close, "OK" | "INFORMATIONAL") => passed += 1,
                _ => failed.push(line.to_owned()),
            }
        }
        println!(
            "{group}: {passed} passed, {informational} informational, {declined} of an extension that was declined"
        );
        println!("figure autobahn_{group}_passed {passed} cases");
    }
    println!("figure autobahn_failed {} cases", failed.len());
    if told.lines().count() == 0 {
        bail!("the suite left no report");
    }
    if !failed.is_empty() {
        bail!("cases that failed, with how they behaved and how they closed:\n{}", failed.join("\n"));
    }
    Ok(())
}

/// A process that ends with us.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Python 2.7.
struct Python {
    program: PathBuf,
    /// The folder `usr` that it was unpacked to, when it is not installed.
    unpacked: Option<PathBuf>,
}

impl Python {
    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.env("PYTHONPATH", folder.join("lib"));
        if let Some(usr) = &self.unpacked {
            command.env("LD_LIBRARY_PATH", usr.join("lib/x86_64-linux-gnu"));
            // For the compiler: Debian's Python looks for its headers in the system's folder, wherever it is.
            let headers = [usr.join("include/python2.7"), usr.join("include")];
            command.env("CPATH", headers.map(|folder| folder.display().to_string()).join(":"));
        }
        command
    }

    fn works(&self) -> bool {
        let check = "import sys, ssl, ctypes; assert sys.version_info[:2] == (2, 7)";
        let mut command = self.command(Path::new(""));
        command.args(["-c", check]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }
}

/// The suite in a folder, and a Python that runs it.
fn install(folder: &Path) -> Result<Python> {
    fs::create_dir_all(folder)?;
    let python = match find_python(folder) {
        Some(python) => python,
        None => unpack_python(folder)?,
    };
    let done = folder.join("installed");
    if fs::read_to_string(&done).is_ok_and(|suite| suite == SUITE) {
        return Ok(python);
    }
    let _ = fs::remove_dir_all(folder.join("lib"));
    let pip = |arguments: &[&str]| run(Command::new("python3").args(["-m", "pip"]).args(arguments).current_dir(folder));
    let download = ["download", "--quiet", "--no-deps", "--dest", "pip", PIP];
    if pip(&download).is_err() {
        apt_install(&["python3-pip"])?;
        pip(&download)?;
    }
    let wheel = files(&folder.join("pip"))?.pop().context("pip was not downloaded")?;
    let pip_of = |from: &Path, arguments: &[&str]| {
        let mut install = python.command(folder);
        install.arg(from).args(["install", "--quiet", "--no-python-version-warning", "--upgrade"]).args(arguments);
        run(install.env("PYTHONPATH", folder.join("tools")).current_dir(folder))
    };
    // A wheel is a zip, and Python runs what is in one; from a folder it can build what is no wheel, too.
    pip_of(&wheel.join("pip"), &[&["--target", "tools"], &TOOLS[..]].concat())?;
    pip_of(Path::new("tools/pip"), &["--target", "lib", SUITE])?;
    // What the namespace packages of that time leave out when they are not in the system's folder.
    fs::write(folder.join("lib/zope/__init__.py"), "")?;
    fs::write(done, SUITE)?;
    Ok(python)
}

fn find_python(folder: &Path) -> Option<Python> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let of_pyenv = files(&home.join(".pyenv/versions")).unwrap_or_default();
    let of_pyenv = of_pyenv.into_iter().map(|version| version.join("bin/python2.7"));
    let installed = ["python2.7", "python2"].map(PathBuf::from).into_iter().chain(of_pyenv);
    let installed = installed.map(|program| Python { program, unpacked: None });
    installed.chain([unpacked(folder)]).find(Python::works)
}

fn unpacked(folder: &Path) -> Python {
    let usr = folder.join("python/usr");
    Python { program: usr.join("bin/python2.7"), unpacked: Some(usr) }
}

/// Unpacks Debian 11's Python, with lists of packages of its own: the system's stay as they are.
fn unpack_python(folder: &Path) -> Result<Python> {
    eprintln!("no Python 2.7 was found; unpacking Debian 11's");
    let apt = folder.join("apt");
    for inner in ["lists/partial", "cache/archives/partial", "debs"] {
        fs::create_dir_all(apt.join(inner))?;
    }
    fs::write(apt.join("sources.list"), format!("deb {} bullseye main", debian_mirror()?))?;
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        for (name, inner) in
            [("Dir::Etc::sourcelist", "sources.list"), ("Dir::State::lists", "lists"), ("Dir::Cache", "cache")]
        {
            command.arg("-o").arg(format!("{name}={}", apt.join(inner).display()));
        }
        command.args(["-o", "Dir::Etc::sourceparts=-", "-o", "APT::Sandbox::User=root", "--quiet"]).args(arguments);
        run(command.current_dir(apt.join("debs")))
    };
    apt_get(&["update"])?;
    apt_get(&[&["download"], &PACKAGES[..]].concat())?;
    for package in files(&apt.join("debs"))? {
        run(Command::new("dpkg").arg("--extract").arg(package).arg(folder.join("python")))?;
    }
    let python = unpacked(folder);
    if !python.works() {
        bail!("the Python 2.7 that was unpacked does not run; install one, or PyPy 2.7 by that name");
    }
    Ok(python)
}

/// Where this system has its packages from: there the older release is too.
fn debian_mirror() -> Result<String> {
    let mut lists = files(Path::new("/etc/apt/sources.list.d")).unwrap_or_default();
    lists.retain(|list| list.extension().is_some_and(|kind| kind == "list" || kind == "sources"));
    lists.insert(0, PathBuf::from("/etc/apt/sources.list"));
    let lines = lists.iter().filter_map(|list| fs::read_to_string(list).ok()).collect::<Vec<_>>().join("\n");
    let found = mirror_in(&lines).map(str::to_owned);
    found.context("there is no mirror of Debian in /etc/apt; install Python 2.7, or PyPy 2.7 by that name")
}

/// The first mirror that lists of apt name, in `deb [options] URI suite …` or `URIs: …`.
fn mirror_in(lists: &str) -> Option<&str> {
    lists
        .lines()
        .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
        .flat_map(str::split_whitespace)
        .find(|word| word.contains("://") && word.trim_end_matches('/').ends_with("/debian"))
}

/// What is in a folder, in order.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<_> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::mirror_in;

    #[test]
    fn the_mirror_is_the_systems_own() {
        let new = "Types: deb\n# http://old.example/debian\nURIs: http://mirror.example/debian-security http://mirror.example/debian/\n";
        assert_eq!(mirror_in(new), Some("http://mirror.example/debian/"));
        let old = "# deb http://old.example/debian x\ndeb [arch=amd64] https://mirror.example/debian bookworm main\n";
        assert_eq!(mirror_in(old), Some("https://mirror.example/debian"));
        assert_eq!(mirror_in("deb https://other.example/tools stable main\n"), None);
    }
}
