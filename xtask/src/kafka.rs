//! A private Kafka: a broker in a folder and on ports of its own, gone when it is dropped. Beside it what stands around
//! one in practice: a schema registry, and Debezium.
//!
//! All of it comes from Maven Central, once a machine. Who has a broker and no way there names it in
//! `DELTAFRONT_TEST_KAFKA=host:port`.

pub mod registry; // schemas by id, for Avro and Protobuf
pub mod debezium; // a database's changes as messages
mod jars; // what is fetched, and where it lies
mod java; // programs that run beside us
mod tls; // certificates

use std::ffi::OsString;
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tempfile::TempDir;

use jars::{Part, class_path, fetch, kafka_file, once};
use java::{End, Java, Running, find_or_install_java};

pub use debezium::PrivateDebezium;
pub use registry::PrivateRegistry;

/// The variable that names a broker to use instead of a private one: `host:port`, of a listener for everyone.
pub const GIVEN: &str = "DELTAFRONT_TEST_KAFKA";

/// A user of the listeners with SASL, by PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512, who may do everything: name and password.
pub const ADMIN: (&str, &str) = ("admin", "admin-secret");

/// A user for whom access lists hold: name and password.
pub const ALICE: (&str, &str) = ("alice", "alice-secret");

/// How long a broker that is asked to stop may take. Usually it is half a second.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// The same, when it writes the archive of its classes: some seconds.
const ARCHIVE_PATIENCE: Duration = Duration::from_secs(180);

/// Fetches all that the Kafka tests run, with a line for each.
///
/// # Errors
/// When it can't be had.
pub fn set_up() -> Result<()> {
    let Some(address) = given()? else {
        eprintln!("Kafka: {}", Kit::find_or_make()?.jars.display());
        eprintln!("schema registry: {}", fetch(Part::Registry)?.display());
        eprintln!("Debezium: {}", fetch(Part::Debezium)?.display());
        return Ok(());
    };
    eprintln!("Kafka: {address}, which {GIVEN} names");
    // Where there is nothing but this broker, most tests still run.
    for (name, part) in [("schema registry", Part::Registry), ("Debezium", Part::Debezium)] {
        match fetch(part) {
            Ok(folder) => eprintln!("{name}: {}", folder.display()),
            Err(error) => eprintln!("{name}: tests that need it will fail: {error:#}"),
        }
    }
    Ok(())
}

/// The broker that is used instead of a private one, when one is named.
fn given() -> Result<Option<String>> {
    let Ok(address) = std::env::var(GIVEN) else { return Ok(None) };
    let reach = || -> Result<()> {
        let mut addresses = address.to_socket_addrs()?;
        addresses
            .find_map(|address| TcpStream::connect_timeout(&address, Duration::from_secs(10)).ok())
            .context("nobody answers there")?;
        Ok(())
    };
    reach().map_err(|error| anyhow!("{GIVEN}={address} is not reachable: {error:#}"))?;
    Ok(Some(address))
}

/// What it takes to start a broker in three seconds instead of ten.
#[derive(Debug)]
struct Kit {
    java: PathBuf,
    jars: PathBuf,
    /// Holds `data`, a formatted data folder, and `classes.jsa`, an archive of the classes that a broker loads.
    warm: PathBuf,
}

impl Kit {
    fn find_or_make() -> Result<Kit> {
        let Java { program: java, version } = find_or_install_java()?;
        let jars = fetch(Part::Broker)?;
        // A class archive is good for one Java.
        let warm = PathBuf::from(format!("{}-java-{version}", jars.display()));
        once(&warm, |unfinished| warm_up(&java, &jars, unfinished))?;
        Ok(Kit { java, jars, warm })
    }
}

/// Formats a data folder and runs a broker on it for once, to keep what a start would find out again.
fn warm_up(java: &Path, jars: &Path, warm: &Path) -> Result<()> {
    eprintln!("making an archive of the broker's classes, for quicker starts");
    let kit = Kit { java: java.to_owned(), jars: jars.to_owned(), warm: warm.to_owned() };
    let mut node = Node::new(kit, &[])?;
    node.format()?;
    copy_folder(&node.data_folder(), &warm.join("data"))?;
    node.launch(&format!("-XX:ArchiveClassesAtExit={}", warm.join("classes.jsa").display()))?;
    node.end(End::Ask(ARCHIVE_PATIENCE));
    Ok(())
}

/// A broker that nobody else uses; or the one that `DELTAFRONT_TEST_KAFKA` names, which others may use too, so that
/// topics want names of their own.
#[derive(Debug)]
pub struct PrivateKafka {
    bootstrap: String,
    /// `None` for a broker that is not ours.
    node: Option<Node>,
}

impl PrivateKafka {
    /// Starts a broker in a temporary folder on free loopback ports. It makes no topic by itself.
    ///
    /// # Errors
    /// When it can't be had or does not start, with its log.
    pub fn start() -> Result<PrivateKafka> {
        PrivateKafka::start_with(&[])
    }

    /// As [`PrivateKafka::start`], with settings such as `message.max.bytes=1000`, the last of a name counting.
    ///
    /// # Errors
    /// As [`PrivateKafka::start`]; and when there are settings for a broker that is not ours.
    pub fn start_with(settings: &[&str]) -> Result<PrivateKafka> {
        if let Some(bootstrap) = given()? {
            if let Some(setting) = settings.first() {
                bail!("{setting}: the broker that {GIVEN} names is not ours to set");
            }
            return Ok(PrivateKafka { bootstrap, node: None });
        }
        let mut node = Node::new(Kit::find_or_make()?, settings)?;
        node.take_formatted_data()?;
        node.launch_quickly()?;
        Ok(PrivateKafka { bootstrap: format!("127.0.0.1:{}", node.ports.plaintext), node: Some(node) })
    }

    /// Where it speaks to everyone, in the clear.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Where it wants a user ([`ADMIN`], [`ALICE`]), in the clear: `SASL_PLAINTEXT`.
    ///
    /// # Errors
    /// When it is not ours, as for all that follows.
    pub fn sasl_bootstrap(&self) -> Result<String> {
        Ok(format!("127.0.0.1:{}", self.node()?.ports.sasl_plaintext))
    }

    /// Where it speaks TLS, to everyone; a client may show a certificate: `SSL`.
    ///
    /// # Errors
    /// When it is not ours.
    pub fn ssl_bootstrap(&self) -> Result<String> {
        Ok(format!("localhost:{}", self.node()?.ports.ssl))
    }

    /// Where it speaks TLS and wants a user: `SASL_SSL`.
    ///
    /// # Errors
    /// When it is not ours.
    pub fn sasl_ssl_bootstrap(&self) -> Result<String> {
        Ok(format!("localhost:{}", self.node()?.ports.sasl_ssl))
    }

    /// The certificate, PEM, that signed the broker's.
    ///
    /// # Errors
    /// When it is not ours.
    pub fn ca_file(&self) -> Result<PathBuf> {
        Ok(self.node()?.folder.path().join("tls/ca.crt"))
    }

    /// A client's certificate and its key, PEM, that the broker trusts.
    ///
    /// # Errors
    /// When it is not ours.
    pub fn client_files(&self) -> Result<(PathBuf, PathBuf)> {
        let tls = self.node()?.folder.path().join("tls");
        Ok((tls.join("client.crt"), tls.join("client.key")))
    }

    /// Kills it as a power cut would. What it has acknowledged is there when it starts again.
    ///
    /// # Errors
    /// When it is not ours.
    pub fn kill(&mut self) -> Result<()> {
        self.node_mut()?.end(End::Kill);
        Ok(())
    }

    /// Lets it stop in good order.
    ///
    /// # Errors
    /// When it is not ours.
    pub fn stop(&mut self) -> Result<()> {
        self.node_mut()?.end(End::Ask(STOP_PATIENCE));
        Ok(())
    }

    /// Starts it again on the same ports and data, after [`PrivateKafka::kill`] or [`PrivateKafka::stop`].
    ///
    /// # Errors
    /// When it is not ours, still runs, or does not start.
    pub fn start_again(&mut self) -> Result<()> {
        let node = self.node_mut()?;
        if node.running.as_mut().is_some_and(|running| !running.has_ended()) {
            bail!("the broker runs");
        }
        node.launch_quickly()
    }

    /// What it has said since it was started last.
    ///
    /// # Errors
    /// When it is not ours.
    pub fn log(&self) -> Result<String> {
        Ok(self.node()?.running.as_ref().map(Running::said).unwrap_or_default())
    }

    /// Runs a class of Kafka's with `--bootstrap-server` and these arguments, and returns what it prints. For what clients
    /// can't do, such as access lists (`org.apache.kafka.tools.AclCommand`): each call starts a Java.
    ///
    /// # Errors
    /// When it is not ours, or fails, with its words.
    pub fn tool(&self, class: &str, arguments: &[&str]) -> Result<String> {
        let node = self.node()?;
        let mut command = java_program(&node.kit.java, &node.kit.jars)?;
        command.args([class, "--bootstrap-server", &self.bootstrap]).args(arguments);
        finish(&mut command, class)
    }

    fn node(&self) -> Result<&Node> {
        self.node.as_ref().with_context(not_ours)
    }

    fn node_mut(&mut self) -> Result<&mut Node> {
        self.node.as_mut().with_context(not_ours)
    }
}

fn not_ours() -> String {
    format!("the broker that {GIVEN} names is not ours")
}

/// A private broker's folder, and the broker while it runs.
#[derive(Debug)]
struct Node {
    kit: Kit,
    settings: String,
    ports: Ports,
    // Before the folder: a broker whose folder goes complains.
    running: Option<Running>,
    folder: TempDir,
}

#[derive(Debug)]
struct Ports {
    plaintext: u16,
    sasl_plaintext: u16,
    ssl: u16,
    sasl_ssl: u16,
    controller: u16,
}

impl Ports {
    fn choose() -> Result<Ports> {
        let [plaintext, sasl_plaintext, ssl, sasl_ssl, controller] = free_ports()?;
        Ok(Ports { plaintext, sasl_plaintext, ssl, sasl_ssl, controller })
    }
}

impl Node {
    fn new(kit: Kit, settings: &[&str]) -> Result<Node> {
        let folder = tempfile::Builder::new().prefix("deltafront-kafka-").tempdir()?;
        tls::make_certificates(&folder.path().join("tls"))?;
        let mut node = Node { kit, settings: settings.join("\n"), ports: Ports::choose()?, running: None, folder };
        node.write_settings()?;
        Ok(node)
    }

    fn data_folder(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn settings_file(&self) -> PathBuf {
        self.folder.path().join("server.properties")
    }

    fn write_settings(&mut self) -> Result<()> {
        let places = [
            ("FOLDER", self.folder.path().display().to_string()),
            ("PLAINTEXT", self.ports.plaintext.to_string()),
            ("SASL_PLAINTEXT", self.ports.sasl_plaintext.to_string()),
            ("SSL", self.ports.ssl.to_string()),
            ("SASL_SSL", self.ports.sasl_ssl.to_string()),
            ("CONTROLLER", self.ports.controller.to_string()),
        ];
        Ok(fs::write(self.settings_file(), filled_in("server.properties", &places)? + &self.settings)?)
    }

    /// Makes the data folder, with the users of SCRAM in it.
    fn format(&self) -> Result<()> {
        let mut command = java_program(&self.kit.java, &self.kit.jars)?;
        command.args(["kafka.tools.StorageTool", "format", "--cluster-id", &cluster_id(), "--config"]);
        command.arg(self.settings_file());
        for (name, password) in [ADMIN, ALICE] {
            for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
                command.args(["--add-scram", &format!("{mechanism}=[name={name},password={password}]")]);
            }
        }
        finish(&mut command, "formatting Kafka's data folder").map(drop)
    }

    /// Copies a data folder that was formatted before, which is another Java saved, and makes another cluster of it.
    fn take_formatted_data(&self) -> Result<()> {
        copy_folder(&self.kit.warm.join("data"), &self.data_folder())?;
        let meta = self.data_folder().join("meta.properties");
        let lines = fs::read_to_string(&meta)?;
        let lines = lines.lines().map(|line| match line.split_once('=') {
            Some(("cluster.id", _)) => format!("cluster.id={}\n", cluster_id()),
            _ => format!("{line}\n"),
        });
        Ok(fs::write(&meta, lines.collect::<String>())?)
    }

    /// Starts it with the class archive. An archive that Java does not like is left aside by it.
    fn launch_quickly(&mut self) -> Result<()> {
        self.launch(&format!("-XX:SharedArchiveFile={}", self.kit.warm.join("classes.jsa").display()))
    }

    fn launch(&mut self, archive: &str) -> Result<()> {
        let mut command = java_program(&self.kit.java, &self.kit.jars)?;
        // Options of Java stand before the class.
        command.args([archive, "-Xshare:auto", "kafka.Kafka"]).arg(self.settings_file());
        let mut running = Running::start(&mut command, &self.folder.path().join("log"))?;
        let is_ready = |said: &str| said.contains("Kafka Server started");
        running.wait("Kafka", is_ready, |_| false)?;
        self.running = Some(running);
        Ok(())
    }

    fn end(&mut self, end: End) {
        if let Some(mut running) = self.running.take() {
            running.end(end);
        }
    }
}

/// Java with the jars of a folder and the settings that all programs share: small, and quick to start.
fn java_program(java: &Path, jars: &Path) -> Result<Command> {
    let mut command = Command::new(java);
    command.args(["-Xms64m", "-Xmx256m", "-Xss512k", "-XX:MaxDirectMemorySize=64m"]);
    command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"]);
    // Not on the class path: a class archive wants jars there alone.
    let mut logging = OsString::from("-Dlog4j2.configurationFile=");
    logging.push(kafka_file("log4j2.properties"));
    command.arg(logging).args(["-cp", &class_path(jars)?]).stdin(Stdio::null());
    Ok(command)
}

/// Runs a program to its end and returns what it prints.
fn finish(command: &mut Command, name: &str) -> Result<String> {
    let output = command.output().with_context(|| format!("can't run {}", command.get_program().display()))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{name} failed: {printed}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(printed)
}

/// A file of `tests/kafka` with its places (`@NAME@`) filled in.
fn filled_in(file: &str, places: &[(&str, String)]) -> Result<String> {
    let path = kafka_file(file);
    let mut text = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
    for (name, value) in places {
        text = text.replace(&format!("@{name}@"), value);
    }
    Ok(text)
}

/// Sixteen bytes in base64, as Kafka writes its identifiers.
fn cluster_id() -> String {
    format!("{:016x}{:05x}A", random(), random() & 0xF_FFFF)
}

/// From the standard library's seed of hash maps, which it asks of the system.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Where to look for a free port next. Never twice at the same one: who was given a port may not listen on it yet, or
/// may be down and want it back.
static NEXT_PORT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(random() >> 1));

/// Ports that nobody listens on, below those that the system gives to clients, which could take one before its server
/// listens.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    for port in &mut ports {
        let candidates = (0..1000).map(|_| 20_000 + (NEXT_PORT.fetch_add(1, Ordering::Relaxed) % 12_000) as u16);
        *port = candidates
            .into_iter()
            .find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
            .context("there are no free ports on 127.0.0.1")?;
    }
    Ok(ports)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("can't read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two brokers that started together were given the same port now and then: neither listened yet.
    #[test]
    fn no_port_is_given_twice() {
        let mut ports: Vec<u16> = (0..100).flat_map(|_| free_ports::<5>().expect("ports")).collect();
        ports.sort_unstable();
        assert!(ports.windows(2).all(|pair| pair[0] < pair[1]), "{ports:?}");
    }

    #[test]
    fn cluster_ids_are_sixteen_bytes_and_differ() {
        assert_eq!(cluster_id().len(), 22);
        assert_ne!(cluster_id(), cluster_id());
    }

    /// A place that nobody fills in would be a setting that Kafka takes for a value.
    #[test]
    fn all_places_are_filled_in() {
        let mut node = Node {
            kit: Kit { java: PathBuf::new(), jars: PathBuf::new(), warm: PathBuf::new() },
            settings: "num.partitions=7".to_owned(),
            ports: Ports::choose().expect("ports"),
            running: None,
            folder: tempfile::tempdir().expect("a folder"),
        };
        node.write_settings().expect("settings");
        let written = fs::read_to_string(node.settings_file()).expect("settings");
        let places: Vec<&str> = written.lines().filter(|line| !line.starts_with('#') && line.contains("=@")).collect();
        assert_eq!(places, [""; 0]);
        assert!(!written.contains(":@"), "{written}");
        assert!(written.ends_with("\nnum.partitions=7"), "settings of a test are the last");
    }
}
