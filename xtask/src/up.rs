//! `cargo xtask up`

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use xtask::kafka::{GIVEN, PrivateKafka, PrivateRegistry};
use xtask::postgres::PrivatePostgres;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What a pipeline reads from, until Ctrl-C; then all of it is gone.
///
/// # Errors
/// When a part can't be started.
pub fn up() -> Result<()> {
    // Ctrl-C reaches every process of the terminal at once; this one stays to clean up.
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))?;
    eprintln!("1/3  starting a private Postgres with the storefront sample, in a temporary folder");
    let postgres = PrivatePostgres::start()?;
    postgres.load_storefront("storefront")?;
    eprintln!("2/3  starting a private Kafka (the first time fetches it)");
    let kafka = start_kafka()?;
    eprintln!("3/3  starting a private schema registry");
    let registry = PrivateRegistry::start()?;
    eprintln!();
    // To stdout, and nothing else: what takes it can run it.
    println!("export STOREFRONT_DB={}", postgres.url("storefront"));
    println!("export KAFKA_BOOTSTRAP={}", kafka.bootstrap());
    println!("export SCHEMA_REGISTRY_URL={}", registry.url());
    eprintln!();
    eprintln!("     give these lines to another terminal, and there:");
    eprintln!("     cargo run -- run examples/storefront      # reads this Postgres");
    eprintln!("     psql $STOREFRONT_DB -c \"UPDATE customers SET region = 'moon' WHERE id = 1\"");
    eprintln!("     a topic is made when somebody writes to it; what it holds is in a temporary folder too");
    eprintln!("     Ctrl-C ends all of it");
    while !INTERRUPTED.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(100));
    }
    eprintln!("cleaning up");
    Ok(())
}

fn start_kafka() -> Result<PrivateKafka> {
    if std::env::var_os(GIVEN).is_some() {
        return PrivateKafka::start();
    }
    // Whoever tries things out wants topics to be there.
    PrivateKafka::start_with(&["auto.create.topics.enable=true"])
}
