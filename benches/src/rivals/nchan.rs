//! Nchan: a module of nginx. Debian's packages, with a configuration of our own.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;
use xtask::postgres::{apt_install, is_root};

use super::{Publisher, Rival, audience};
use crate::process::{Process, free_port};

const PROGRAM: &str = "/usr/sbin/nginx";
const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

/// Starts nginx with one worker, and installs it where it is missing.
///
/// # Errors
/// When it can't be had.
pub fn start() -> Result<Rival> {
    if !Path::new(PROGRAM).exists() || !Path::new(MODULE).exists() {
        eprintln!("installing the packages nginx-light and libnginx-mod-nchan");
        apt_install(&["nginx-light", "libnginx-mod-nchan"])?;
    }
    // What it writes on the way; a worker that is not root would have to be let in.
    let folder = tempfile::Builder::new().prefix("deltafront-nchan-").tempdir()?;
    let port = free_port()?;
    let configuration = folder.path().join("nginx.conf");
    fs::write(&configuration, conf(folder.path(), port))?;
    let process = Process::start(
        Command::new(PROGRAM)
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(&configuration)
            .args(["-e", "error.log"])
            .stdin(Stdio::null())
            .stdout(Stdio::null()),
    )?;
    let publisher = Publisher::connect(port, envelope, true)?;
    let plan = audience(port, "/sub");
    Ok(Rival { name: "nchan", process, publisher, plan, _folder: Some(folder) })
}

fn envelope(payload: &str) -> Vec<u8> {
    format!("POST /pub HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{payload}", payload.len()).into_bytes()
}

fn conf(folder: &Path, port: u16) -> String {
    let user = if is_root() { "user root;" } else { "" };
    let folder = folder.display();
    format!(
        "load_module {MODULE};
         {user}
         daemon off;
         worker_processes 1;
         worker_rlimit_nofile 65536;
         pid {folder}/pid;
         events {{ worker_connections 65536; }}
         http {{
           access_log off;
           client_body_temp_path {folder}/body;
           proxy_temp_path {folder}/proxy;
           fastcgi_temp_path {folder}/fastcgi;
           uwsgi_temp_path {folder}/uwsgi;
           scgi_temp_path {folder}/scgi;
           keepalive_requests 1000000000;
           keepalive_timeout 1h;
           server {{
             listen 127.0.0.1:{port};
             location = /pub {{
               nchan_publisher http;
               nchan_channel_id ticks;
               nchan_message_buffer_length 1000;
             }}
             location = /sub {{
               nchan_subscriber websocket;
               nchan_channel_id ticks;
               nchan_subscriber_first_message newest;
             }}
           }}
         }}"
    )
}
