//! All of it together.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use connectors::postgres::{Source, SourceOptions, SourceState};
use pipeline::Lsn;
use push::serve::Gate;
use push::{Health, Hub, ServeOptions, serve};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::engine::{Engine, EngineSource};
use crate::health::HealthBoard;
use crate::prepare::{Ask, Prepared, prepare};

/// Events between sources and engine. A large transaction is one event, so few are enough to keep
/// the engine busy, and many would only hide that it is behind.
const EVENTS_MAX: usize = 64;

/// What the command line may change.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Listen here in place of where the project says.
    pub listen: Option<SocketAddr>,
    /// How clients are treated.
    pub serve: ServeOptions,
}

/// A program that runs.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it says of itself.
    pub health: watch::Receiver<Health>,
    /// What it serves.
    pub hub: Arc<Hub>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    tasks: JoinSet<()>,
    engine: thread::JoinHandle<anyhow::Result<()>>,
    ended: watch::Receiver<Option<Ended>>,
}

/// How the engine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Its sources are gone; what they left is still served.
    WithoutSources,
    Failed,
}

/// Starts a project. Returns as soon as it listens; the tables are copied meanwhile.
///
/// # Errors
/// With every mistake in the project ([`sql::Diagnostics`]), or when it can't listen.
pub async fn start(folder: &Path, options: RunOptions) -> anyhow::Result<Running> {
    let Prepared { project, plan, sources } = prepare(folder, Ask::Databases).await?;
    let listen = options.listen.unwrap_or(project.config.server.listen);
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("can't listen on {listen}; is another server there? Choose another with --listen or [server] listen in deltafront.toml")
    })?;
    let address = listener.local_addr()?;
    let names: Vec<String> = plan.projections.iter().map(|projection| projection.name.clone()).collect();
    let hub = Arc::new(Hub::new(plan.projections.iter().map(describe).collect()));
    let source_names: Vec<Arc<str>> = sources.iter().map(|source| Arc::clone(&source.name)).collect();
    let board = Arc::new(HealthBoard::new(&source_names, names.len()));

    let (event_sender, events) = mpsc::channel(EVENTS_MAX);
    let mut tasks = JoinSet::new();
    let mut engine_sources = Vec::new();
    for (index, source) in sources.into_iter().enumerate() {
        let (applied_sender, applied) = watch::channel(Lsn(0));
        let (state_sender, mut state) = watch::channel(SourceState::Connecting);
        let tables = source.tables.iter().map(|table| plan.tables[&table.name]).collect();
        engine_sources.push(EngineSource { name: Arc::clone(&source.name), tables, applied: applied_sender });
        let options = SourceOptions { index, name: source.name, publication: source.publication, slot: source.slot };
        let source = Source::new(source.target, options, source.tables, event_sender.clone(), state_sender, applied);
        tasks.spawn(source.run());
        let board = Arc::clone(&board);
        tasks.spawn(async move {
            loop {
                board.set_source(index, &state.borrow_and_update().clone());
                if state.changed().await.is_err() {
                    return;
                }
            }
        });
    }
    drop(event_sender);

    let projections = plan.projections.iter().map(|projection| projection.id).collect();
    let engine = Engine::new(plan.program, engine_sources, Arc::clone(&hub), Arc::clone(&board), projections);
    let (ended_sender, ended) = watch::channel(None);
    // A thread of its own: a step may take long, and must not keep sockets waiting.
    let engine = thread::Builder::new().name("engine".to_owned()).spawn(move || {
        let ended = engine.run(events).context("the engine stopped, which is a mistake of ours; please report it");
        ended_sender.send_replace(Some(if ended.is_err() { Ended::Failed } else { Ended::WithoutSources }));
        ended
    })?;

    let server = project.config.server;
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "everybody who reaches this address sees every row: this version has no policies");
    }
    let gate = Gate::new(address.ip().is_loopback(), server.allowed_origins, server.allowed_hosts);
    let (stop, stopped) = oneshot::channel::<()>();
    let more_metrics = {
        let board = Arc::clone(&board);
        Arc::new(move |registry: &mut _| board.register(registry, &names))
    };
    let stopped = async move {
        let _ = stopped.await;
    };
    let serving = tokio::spawn(serve(listener, Arc::clone(&hub), gate, options.serve, board.subscribe(), more_metrics, stopped));
    Ok(Running { address, health: board.subscribe(), hub, stop, serving, tasks, engine, ended })
}

impl Running {
    /// Resolves when the engine has failed: the program must end then.
    pub async fn failed(&mut self) {
        let ended = tokio::select! {
            ended = self.ended.wait_for(Option::is_some) => ended.map(|ended| *ended),
            () = panicked(&mut self.tasks) => return,
        };
        // Without a word it has panicked.
        if matches!(ended, Ok(Some(Ended::WithoutSources))) {
            std::future::pending::<()>().await;
        }
    }

    /// Ends sources, engine and server, in that order.
    ///
    /// # Errors
    /// When the engine had failed.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.tasks.shutdown().await;
        let _ = self.stop.send(());
        let _ = self.serving.await;
        match tokio::task::spawn_blocking(move || self.engine.join()).await? {
            Ok(ended) => ended,
            Err(_) => anyhow::bail!("the engine panicked, which is a mistake of ours; please report it with the log"),
        }
    }
}

/// Resolves when a source's task has panicked; one that only ended has said why.
async fn panicked(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if ended.is_err_and(|error| error.is_panic()) {
            return;
        }
    }
    std::future::pending().await
}

fn describe(projection: &sql::PlannedProjection) -> push::Projection {
    push::Projection {
        name: projection.name.clone(),
        description: projection.description.clone(),
        schema: Arc::clone(&projection.schema),
        key: projection.key.columns().map(<[usize]>::to_vec),
        order: projection.order.iter().map(|by| (by.column, by.descending)).collect(),
        batch: projection.batch,
    }
}
