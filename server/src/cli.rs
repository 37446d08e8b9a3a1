//! The command line.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use sql::Diagnostics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::crypto::aws_lc_rs;

use crate::demo::{Demo, Shape};
use crate::prepare::{Ask, Prepared, prepare};
use crate::run::{RunOptions, Running, start};

/// With what is compiled in beside what every build has.
const VERSION: &str = match (cfg!(feature = "kafka"), cfg!(feature = "fluvio")) {
    (true, true) => concat!(env!("CARGO_PKG_VERSION"), " (with kafka, fluvio)"),
    (true, false) => concat!(env!("CARGO_PKG_VERSION"), " (with kafka; built without fluvio)"),
    (false, true) => concat!(env!("CARGO_PKG_VERSION"), " (with fluvio; built without kafka)"),
    (false, false) => concat!(env!("CARGO_PKG_VERSION"), " (built without kafka, fluvio)"),
};

/// How long a running server may take to say how it is.
const HEALTH_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// Write a SELECT. Get a live, filtered, batched, resumable feed of it in every browser.
#[derive(Debug, Parser)]
#[command(
    name = "deltafront",
    version = VERSION,
    after_help = "Examples:\n  deltafront demo                          # a project that needs nothing, to look at\n  deltafront check examples/storefront\n  deltafront explain examples/storefront open_orders\n  deltafront run examples/storefront --listen 127.0.0.1:8080"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a project: copy its tables, follow their changes, push the projections
    #[command(
        after_help = "Examples:\n  SHOP_DB=postgres://me:secret@db/shop deltafront run shop\n  deltafront run shop --listen 0.0.0.0:8080   # for all who reach this machine; policies and [auth] say what each sees\n\nRUST_LOG=debug shows more."
    )]
    Run(RunArgs),
    /// Serve a project that is in the program, with rows that are made up: no database is needed
    #[command(
        after_help = "Examples:\n  deltafront demo\n  deltafront demo --rate 500 --listen 127.0.0.1:9000\n  deltafront demo --shape nexmark --rate 50\n  deltafront demo --write shop   # its files, to start from\n\nThe same seed gives the same rows and changes in the same order."
    )]
    Demo(DemoArgs),
    /// Find every mistake in a project; exits with 1 when there is any
    #[command(
        after_help = "Examples:\n  deltafront check shop\n  deltafront check shop --offline   # asks no database; columns must be declared"
    )]
    Check(CheckArgs),
    /// Show a projection's operators, each with what its cost follows: delta, group or whole
    #[command(
        after_help = "Examples:\n  deltafront explain shop open_orders\n  deltafront explain shop open_orders --offline\n\ndelta: the change. group: the touched groups. whole: all of the operator's input."
    )]
    Explain(ExplainArgs),
    /// Print a project's projections as TypeScript, so that a misspelt column does not compile
    #[command(
        after_help = "Examples:\n  deltafront types shop > web/src/projections.d.ts\n  deltafront types shop --offline\n\nThe declarations are for the package @deltafront/client: see docs/client.md."
    )]
    Types(CheckArgs),
    /// Ask a running server whether it is ready; exits with 1 when it is not
    #[command(after_help = "Examples:\n  deltafront health\n  deltafront health --at 127.0.0.1:9000")]
    Health(HealthArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The project's folder
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Listen here in place of where deltafront.toml says (127.0.0.1:8080)
    #[arg(long, env = "DELTAFRONT_LISTEN", value_parser = sql::config::address)]
    listen: Option<SocketAddr>,
    /// Log lines as JSON
    #[arg(long)]
    log_json: bool,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// What it is about
    #[arg(long, value_enum, default_value = "storefront")]
    shape: Shape,
    /// Transactions a second, such as 50 or 0.5; 0 is as fast as it goes
    #[arg(long, default_value = "5", value_parser = connectors::generator::options::rate)]
    rate: f64,
    /// Decides all rows
    #[arg(long, default_value = "7")]
    seed: u64,
    /// Listen here
    #[arg(long, env = "DELTAFRONT_LISTEN", default_value = "127.0.0.1:8080", value_parser = sql::config::address)]
    listen: SocketAddr,
    /// Write the project's files to this folder, and serve nothing
    #[arg(long, value_name = "FOLDER")]
    write: Option<PathBuf>,
    /// Log lines as JSON
    #[arg(long)]
    log_json: bool,
}

#[derive(Debug, Args)]
struct HealthArgs {
    /// Where it listens
    #[arg(long, env = "DELTAFRONT_LISTEN", default_value = "127.0.0.1:8080", value_parser = sql::config::address)]
    at: SocketAddr,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The project's folder
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Ask no database: every table's columns must be declared
    #[arg(long)]
    offline: bool,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// The project's folder
    folder: PathBuf,
    /// The projection's name
    projection: String,
    /// Ask no database: every table's columns must be declared
    #[arg(long)]
    offline: bool,
}

/// The program: does what its arguments say.
#[must_use]
pub fn program() -> ExitCode {
    // Libraries that take the process's cryptography (Fluvio's client) get ours, whichever of them would
    // be first to choose. Nobody has chosen yet, so this can't fail.
    let _ = aws_lc_rs::default_provider().install_default();
    main(Cli::parse())
}

/// Runs a command.
fn main(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("error: can't start: {error}")),
    };
    runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run(args).await,
            Command::Demo(args) => demo(args).await,
            Command::Check(args) => check(&args).await,
            Command::Explain(args) => explain(&args).await,
            Command::Types(args) => types(&args).await,
            Command::Health(args) => health(&args).await,
        }
    })
}

/// For health checks of containers, which have no HTTP client of their own.
async fn health(args: &HealthArgs) -> ExitCode {
    let mut at = args.at;
    if at.ip().is_unspecified() {
        at.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    match timeout(HEALTH_TIMEOUT, ready_answer(at)).await {
        Ok(Ok(answer)) => {
            let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
            println!("{body}");
            if answer.starts_with("HTTP/1.1 200") { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Ok(Err(error)) => fail(&format!("error: nobody answers on {at}: {error}")),
        Err(_) => fail(&format!("error: no answer from {at} within {HEALTH_TIMEOUT:?}")),
    }
}

async fn ready_answer(at: SocketAddr) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(at).await?;
    socket.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    socket.take(64 * 1024).read_to_string(&mut answer).await?;
    Ok(answer)
}

fn ask(offline: bool) -> Ask {
    if offline { Ask::Nobody } else { Ask::Databases }
}

fn fail(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::FAILURE
}

async fn check(args: &CheckArgs) -> ExitCode {
    match prepare(&args.folder, ask(args.offline)).await {
        Ok(Prepared { plan, .. }) => {
            plan.warnings.0.iter().for_each(|warning| eprintln!("{warning}"));
            println!(
                "{} is right: {} tables, {} projections",
                args.folder.display(),
                plan.tables.len(),
                plan.projections.len()
            );
            ExitCode::SUCCESS
        }
        Err(wrong) => fail(&wrong.to_string()),
    }
}

async fn types(args: &CheckArgs) -> ExitCode {
    match prepare(&args.folder, ask(args.offline)).await {
        Ok(Prepared { project, plan, .. }) => {
            print!("{}", crate::types::declarations(&project.name, &plan.projections));
            ExitCode::SUCCESS
        }
        Err(wrong) => fail(&wrong.to_string()),
    }
}

async fn explain(args: &ExplainArgs) -> ExitCode {
    let plan = match prepare(&args.folder, ask(args.offline)).await {
        Ok(prepared) => prepared.plan,
        Err(wrong) => return fail(&wrong.to_string()),
    };
    let Some(projection) = plan.projections.iter().find(|projection| projection.name == args.projection) else {
        let names: Vec<&str> = plan.projections.iter().map(|projection| projection.name.as_str()).collect();
        return fail(&format!("error: there is no projection `{}`; there are {}", args.projection, names.join(", ")));
    };
    if let Some(id) = plan.program.projection_id(&projection.name) {
        print!("{}\n{}", plan.program.explain(id), projection.access.explain(&projection.schema));
    }
    ExitCode::SUCCESS
}

async fn run(args: RunArgs) -> ExitCode {
    start_logging(args.log_json);
    let options = RunOptions { listen: args.listen, ..RunOptions::default() };
    let running = match start(&args.folder, options).await {
        Ok(running) => running,
        Err(error) => return not_started(&error),
    };
    tracing::info!("serving on http://{}/ (REST at /v1/projections, WebSocket at /v1/socket)", running.address);
    until_interrupted(running).await
}

async fn demo(args: DemoArgs) -> ExitCode {
    let demo = Demo { shape: args.shape, seed: args.seed, rate: args.rate };
    if let Some(folder) = &args.write {
        return match demo.write(folder) {
            Ok(()) => {
                let folder = folder.display();
                println!(
                    "{folder} is a project now: change its files, and\n  deltafront check {folder}\n  deltafront run {folder}"
                );
                ExitCode::SUCCESS
            }
            Err(error) => fail(&format!("error: {error:#}")),
        };
    }
    start_logging(args.log_json);
    let options = RunOptions { listen: Some(args.listen), ..RunOptions::default() };
    let started = match demo.write_temporary() {
        Ok(folder) => start(folder.path(), options).await,
        Err(error) => Err(error),
    };
    let running = match started {
        Ok(running) => running,
        Err(error) => return not_started(&error),
    };
    eprintln!("\n     open http://{}/", running.address);
    eprintln!("     make it yours: deltafront demo --write shop");
    eprintln!("     Ctrl-C ends it, and nothing is left behind\n");
    until_interrupted(running).await
}

fn not_started(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<Diagnostics>() {
        Some(wrong) => fail(&wrong.to_string()),
        None => fail(&format!("error: {error:#}")),
    }
}

async fn until_interrupted(mut running: Running) -> ExitCode {
    let failed = tokio::select! {
        () = interrupted() => None,
        what = running.failed() => Some(what),
    };
    match failed {
        None => tracing::info!("stopping"),
        Some(what) => tracing::error!("{what}, which is a mistake of ours; please report it with the log"),
    }
    match running.stop().await {
        Ok(()) if failed.is_none() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => fail(&format!("error: {error:#}")),
    }
}

fn start_logging(json: bool) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logging = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if json { logging.json().init() } else { logging.with_target(false).init() }
}

/// Ctrl-C, or the signals by which supervisors and terminals end a program.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut terminate), Ok(mut hang_up)) = (signal(SignalKind::terminate()), signal(SignalKind::hangup())) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
