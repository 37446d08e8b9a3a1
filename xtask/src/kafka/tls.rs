//! Certificates of a private authority.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::java::on_path;
use crate::postgres::apt_install;

/// Makes in a folder: `ca.crt`, which clients are to trust; `server.pem`, the server's key and chain, for `localhost`
/// and 127.0.0.1; `client.crt` and `client.key`.
///
/// By the program `openssl`: a crate for it would be a C library to compile before `cargo xtask` does anything.
///
/// # Errors
/// When it can't be run or fails, with its words.
pub fn make_certificates(folder: &Path) -> Result<()> {
    if on_path("openssl").is_none() {
        eprintln!("no openssl was found; installing the package openssl");
        apt_install(&["openssl"]).context("install openssl, and have it on the PATH")?;
    }
    fs::create_dir_all(folder)?;
    let openssl = |arguments: &str| openssl(folder, arguments);
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    fs::write(folder.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n")?;
    openssl(&format!("req -x509 {key} -days 3650 -subj /CN=tests -keyout ca.key -out ca.crt"))?;
    for (name, serial) in [("server", 1), ("client", 2)] {
        openssl(&format!("req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"))?;
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -set_serial {serial} -days 3650 -extfile names -out {name}.crt"
        ))?;
    }
    let parts: Result<Vec<String>, _> =
        ["server.key", "server.crt", "ca.crt"].iter().map(|file| fs::read_to_string(folder.join(file))).collect();
    Ok(fs::write(folder.join("server.pem"), parts?.concat())?)
}

/// Arguments are parted by spaces: none of them has one.
fn openssl(folder: &Path, arguments: &str) -> Result<()> {
    let mut command = Command::new("openssl");
    command.args(arguments.split(' ')).current_dir(folder).stdin(Stdio::null());
    let output = command.output().context("can't run openssl")?;
    if !output.status.success() {
        bail!("openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
