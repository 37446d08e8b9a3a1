//! `cargo xtask demo`

use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use xtask::postgres::PrivatePostgres;
use xtask::target_folder;

use crate::process::{cargo, run};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A child that goes when this goes.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = std::process::Command::new("kill").arg(self.0.id().to_string()).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

/// Postgres, load and server, until Ctrl-C; then all of it is gone.
///
/// # Errors
/// When a part can't be started, or ends by itself.
pub fn demo(listen: &str, rate: f64, release: bool) -> Result<()> {
    // Before the long build: an address that is taken is known now.
    drop(TcpListener::bind(listen).with_context(|| format!("can't listen on {listen}; choose another with --listen"))?);
    // Ctrl-C reaches every process of the terminal at once; this one stays to clean up.
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))?;
    eprintln!("1/4  building deltafront (the first time compiles DataFusion, which takes some minutes)");
    let profile = if release { "release" } else { "dev" };
    run(&mut cargo(&["build", "--profile", profile, "--workspace", "--bin", "deltafront"]))?;
    eprintln!("2/4  starting a private Postgres in a temporary folder");
    let postgres = PrivatePostgres::start()?;
    eprintln!("     it listens on 127.0.0.1:{}; no service of this machine is touched", postgres.port());
    eprintln!("3/4  loading the storefront sample, and {rate} believable transactions a second");
    postgres.load_storefront("storefront")?;
    let load = format!("CALL generate(seed => 0.1, changes_per_second => {rate})");
    let mut load = Owned(postgres.psql_command("storefront").args(["-c", &load]).stdout(Stdio::null()).spawn()?);
    eprintln!("4/4  deltafront run examples/storefront");
    let program = target_folder().join(if release { "release" } else { "debug" }).join("deltafront");
    let mut server = Owned(
        std::process::Command::new(program)
            .current_dir(xtask::root())
            .args(["run", "examples/storefront", "--listen", listen])
            .env("STOREFRONT_DB", postgres.url("storefront"))
            .stdin(Stdio::null())
            .spawn()?,
    );
    wait_until_served(listen, &mut server)?;
    eprintln!();
    eprintln!("     open http://{listen}/");
    eprintln!(
        "     change something: psql {} -c \"UPDATE customers SET region = 'moon' WHERE id = 1\"",
        postgres.url("storefront")
    );
    eprintln!("     Ctrl-C ends all of it");
    eprintln!();
    loop {
        if INTERRUPTED.load(Ordering::Relaxed) {
            eprintln!("cleaning up");
            return Ok(());
        }
        if let Some(status) = server.0.try_wait()? {
            bail!("deltafront ended by itself ({status})");
        }
        if let Some(status) = load.0.try_wait()? {
            bail!("the load ended by itself ({status})");
        }
        sleep(Duration::from_millis(100));
    }
}

fn wait_until_served(listen: &str, server: &mut Owned) -> Result<()> {
    loop {
        if std::net::TcpStream::connect(listen).is_ok() {
            return Ok(());
        }
        if let Some(status) = server.0.try_wait()? {
            bail!("deltafront did not start ({status})");
        }
        if INTERRUPTED.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        sleep(Duration::from_millis(50));
    }
}
