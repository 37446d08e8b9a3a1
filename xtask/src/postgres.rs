//! A private Postgres: its own folder, its own port, gone when it is dropped.

use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// How long a cluster may take to accept connections.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The folder of Postgres's programs, wherever this machine has one.
#[must_use]
pub fn find_programs() -> Option<PathBuf> {
    let has_server =
        |folder: &Path| ["initdb", "postgres", "psql"].iter().all(|program| folder.join(program).is_file());
    let on_path = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect::<Vec<_>>())
        .unwrap_or_default()
        .into_iter()
        // A link on the PATH may stand alone; its programs are where it points.
        .filter_map(|folder| fs::canonicalize(folder.join("postgres")).ok()?.parent().map(Path::to_path_buf));
    let installed =
        ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt", "/usr/pgsql"].iter().flat_map(|parent| {
            let mut versions: Vec<PathBuf> =
                fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path().join("bin")).collect();
            versions.sort();
            versions.reverse();
            versions
        });
    on_path.chain(installed).find(|folder| has_server(folder))
}

/// Finds Postgres's programs, or installs the distribution's package.
///
/// # Errors
/// When there is none and it can't be installed, with what to do.
pub fn find_or_install() -> Result<PathBuf> {
    if let Some(folder) = find_programs() {
        return Ok(folder);
    }
    let advice =
        "install PostgreSQL 14 or newer with its server programs (initdb, postgres), and have them on the PATH";
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("no Postgres was found; {advice}");
    }
    eprintln!("no Postgres was found; installing the package postgresql");
    apt_install(&["postgresql"]).with_context(|| format!("can't install Postgres; {advice}"))?;
    find_programs().with_context(|| format!("the package holds no server; {advice}"))
}

/// Installs packages with apt-get, as root or through sudo. Services that they bring are not
/// started.
///
/// # Errors
/// When it fails.
pub fn apt_install(packages: &[&str]) -> Result<()> {
    let apt = |arguments: &[&str]| -> Result<()> {
        let mut command = if is_root() { Command::new("apt-get") } else { Command::new("sudo") };
        if !is_root() {
            command.arg("apt-get");
        }
        // RUNLEVEL=1 keeps Debian's packages from starting a service.
        let status = command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("RUNLEVEL", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        if !status.success() {
            bail!("apt-get {} failed", arguments.join(" "));
        }
        Ok(())
    };
    // The lists may be old or missing: try what is there, then bring them up to date.
    let install: Vec<&str> = ["install", "-y", "--no-install-recommends"].iter().chain(packages).copied().collect();
    apt(&install).or_else(|_| {
        apt(&["update"])?;
        apt(&install)
    })
}

/// Whether this process is root, as which Postgres refuses to run.
#[must_use]
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// User and group to run Postgres as when this process is root: `postgres`, or `nobody`.
fn other_user() -> Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").context("can't read the users of this machine")?;
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody")).context("this machine has no user to run Postgres as")
}

/// A running cluster that nobody else uses.
pub struct PrivatePostgres {
    programs: PathBuf,
    folder: TempDir,
    port: u16,
    server: Option<Child>,
    settings: Vec<String>,
}

impl PrivatePostgres {
    /// Makes a cluster in a temporary folder and starts it on a free loopback port with
    /// `wal_level = logical`.
    ///
    /// # Errors
    /// When it can't be made or does not start, with the server's log.
    pub fn start() -> Result<PrivatePostgres> {
        PrivatePostgres::start_with(&[])
    }

    /// As [`PrivatePostgres::start`], with settings such as `wal_level=replica`, the last of a
    /// name counting.
    ///
    /// # Errors
    /// As [`PrivatePostgres::start`].
    pub fn start_with(settings: &[&str]) -> Result<PrivatePostgres> {
        let programs = find_or_install()?;
        let folder = tempfile::Builder::new().prefix("deltafront-postgres-").tempdir()?;
        if is_root() {
            let (user, group) = other_user()?;
            chown(folder.path(), Some(user), Some(group))?;
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700))?;
        let defaults = [
            "wal_level=logical",
            "max_wal_senders=20",
            "max_replication_slots=20",
            "unix_socket_directories=",
            "shared_buffers=64MB",
        ];
        let settings = defaults.iter().chain(settings).map(|&setting| setting.to_owned()).collect();
        let mut postgres = PrivatePostgres { programs, folder, port: 0, server: None, settings };
        let data = postgres.data_folder();
        let made = postgres
            .program("initdb")
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .context("can't run initdb")?;
        if !made.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        }
        postgres.launch()?;
        Ok(postgres)
    }

    fn data_folder(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// A program of Postgres, run as a user that is not root.
    fn program(&self, name: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(self.programs.join(Path::new(&name)));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        if is_root()
            && let Ok((user, group)) = other_user()
        {
            command.uid(user).gid(group);
        }
        command
    }

    fn launch(&mut self) -> Result<()> {
        if self.port == 0 {
            self.port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file())?;
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.data_folder()).args([
            "-p",
            &self.port.to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
        ]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        self.server = Some(command.stdout(log.try_clone()?).stderr(log).spawn().context("can't start postgres")?);
        let started = Instant::now();
        while !self.psql("SELECT 1").is_ok_and(|answer| answer == "1") {
            let exited = self.server.as_mut().and_then(|server| server.try_wait().ok().flatten());
            if exited.is_some() || started.elapsed() > START_TIMEOUT {
                let mut log = String::new();
                let _ = fs::File::open(self.log_file()).and_then(|mut file| file.read_to_string(&mut log));
                bail!("Postgres does not start:\n{log}");
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A URL of one of its databases, for its superuser.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// A `psql` that answers bare values, on the database `postgres`.
    #[must_use]
    pub fn psql_command(&self, database: &str) -> Command {
        let mut command = self.program("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.url(database)]);
        command
    }

    /// Runs SQL on the database `postgres` and returns what it answers.
    ///
    /// # Errors
    /// When it fails, with the server's words.
    pub fn psql(&self, sql: &str) -> Result<String> {
        self.psql_in("postgres", sql)
    }

    /// Runs SQL on a database and returns what it answers.
    ///
    /// # Errors
    /// When it fails, with the server's words.
    pub fn psql_in(&self, database: &str, sql: &str) -> Result<String> {
        let output = self.psql_command(database).args(["-c", sql]).output().context("can't run psql")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Runs a file of SQL on a database.
    ///
    /// # Errors
    /// When it fails, with the server's words.
    pub fn run_file(&self, database: &str, file: &Path) -> Result<()> {
        let sql = fs::File::open(file).with_context(|| format!("can't read {}", file.display()))?;
        let output = self.psql_command(database).stdin(sql).output().context("can't run psql")?;
        if !output.status.success() {
            bail!("{}: {}", file.display(), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Makes a database with the storefront sample in it.
    ///
    /// # Errors
    /// When that fails.
    pub fn load_storefront(&self, database: &str) -> Result<()> {
        self.psql(&format!("CREATE DATABASE {database}"))?;
        for file in ["schema.sql", "seed.sql", "generator.sql"] {
            self.run_file(database, &crate::root().join("examples/storefront/database").join(file))?;
        }
        Ok(())
    }

    /// Kills the server as a power cut would, and starts it again on the same port.
    ///
    /// # Errors
    /// When it does not start again.
    pub fn crash_and_restart(&mut self) -> Result<()> {
        self.stop("-QUIT");
        self.launch()
    }

    fn stop(&mut self, signal: &str) {
        if let Some(mut server) = self.server.take() {
            // The postmaster's own signals: INT ends all sessions and stops, QUIT crashes.
            let _ = Command::new("kill").args([signal, &server.id().to_string()]).status();
            let started = Instant::now();
            while matches!(server.try_wait(), Ok(None)) {
                if started.elapsed() > Duration::from_secs(10) {
                    let _ = server.kill();
                }
                sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.stop("-INT");
    }
}
