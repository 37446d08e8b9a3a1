//! All of it together.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use connectors::dead_letters::DeadLetterSender;
use connectors::sink::SinkLink;
use connectors::source::Counters;
use connectors::{Connector, Link, SourceState, event_queue};
use push::serve::{Authenticator, Entrance, Gate, Strangers};
use push::session::SessionLimits;
use push::{Health, Hub, ServeOptions, serve};
use sql::config::LimitsConfig;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::auth;
use crate::engine::{Engine, EngineSink, EngineSource};
use crate::health::{HealthBoard, register_counters};
use crate::prepare::{Ask, CONNECTORS, Prepared, PreparedSource, prepare_with};
use crate::staleness::Staleness;

/// Bytes of rows that sources have told and the engine has not worked off, all sources together.
/// Enough to keep the engine busy while sources decode the next; when it is full sources stop
/// reading, and their servers keep what is to come. A transaction that is larger passes alone.
const EVENT_BYTES_MAX: u32 = 64 << 20;

/// What the command line may change.
#[derive(Clone)]
pub struct RunOptions {
    /// Listen here in place of where the project says.
    pub listen: Option<SocketAddr>,
    /// How clients are treated, in place of what the project says.
    pub serve: Option<ServeOptions>,
    /// What tables can be read from.
    pub connectors: &'static [Connector],
}

impl Default for RunOptions {
    fn default() -> RunOptions {
        RunOptions { listen: None, serve: None, connectors: CONNECTORS }
    }
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
    /// `None` once it has been seen to end.
    serving: Option<JoinHandle<()>>,
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
    let Prepared { project, plan, sources, sinks } = prepare_with(folder, Ask::Databases, options.connectors).await?;
    let listen = options.listen.unwrap_or(project.config.server.listen);
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("can't listen on {listen}; is another server there? Choose another with --listen or [server] listen in deltafront.toml")
    })?;
    let address = listener.local_addr()?;
    let names: Vec<String> = plan.projections.iter().map(|projection| projection.name.clone()).collect();
    let described = plan.projections.iter().map(describe).collect::<Result<_, _>>()?;
    let limits = &project.config.limits;
    let hub = Arc::new(Hub::with_log(described, limits.log_size).with_parts(limits.part_size));
    let source_names: Vec<Arc<str>> = sources.iter().map(|source| Arc::clone(&source.name)).collect();
    let board = Arc::new(HealthBoard::new(&source_names, names.len()));
    let sink_names: Vec<Arc<str>> = sinks.iter().map(|sink| Arc::from(sink.name())).collect();

    let projections: Vec<_> =
        plan.projections.iter().filter_map(|projection| plan.program.projection_id(&projection.name)).collect();
    let reads = projections.iter().map(|id| {
        let tables = plan.program.tables_of(*id);
        let is_read = |source: &PreparedSource| source.tables.iter().any(|it| tables.contains(&plan.tables[&it.name]));
        sources.iter().enumerate().filter(|(_, source)| is_read(source)).map(|(i, _)| i).collect()
    });
    let staleness = Arc::new(Staleness::new(Arc::clone(&hub), reads.collect(), sources.len()));

    let (event_sender, events) = event_queue(EVENT_BYTES_MAX);
    let mut tasks = JoinSet::new();
    let mut engine_sources = Vec::new();
    let dead_letters = DeadLetterSender::default();
    let mut counters: Vec<(Arc<str>, Arc<Counters>)> =
        sources.iter().map(|source| (Arc::clone(&source.name), Arc::default())).collect();
    for (index, source) in sources.into_iter().enumerate() {
        let (durable_sender, durable) = watch::channel(None);
        let (state_sender, mut state) = watch::channel(SourceState::Connecting);
        let tables = source.tables.iter().map(|table| plan.tables[&table.name]).collect();
        engine_sources.push(EngineSource { name: Arc::clone(&source.name), tables, durable: durable_sender });
        let link = Link {
            name: source.name,
            events: event_sender.of_source(index),
            state: state_sender.clone(),
            durable,
            dead_letters: dead_letters.clone(),
            counters: Arc::clone(&counters[index].1),
        };
        let run = source.source.run(link);
        tasks.spawn(async move {
            run.await;
            state_sender.send_if_modified(ended_by_itself);
        });
        let (board, staleness) = (Arc::clone(&board), Arc::clone(&staleness));
        tasks.spawn(async move {
            loop {
                let now = state.borrow_and_update().clone();
                board.set_source(index, &now);
                staleness.set_source(index, &now);
                if state.changed().await.is_err() {
                    return;
                }
            }
        });
    }
    drop(event_sender);

    let mut engine_sinks = Vec::new();
    for ((planned, sink), name) in plan.sinks.iter().zip(sinks).zip(sink_names) {
        let Some(projection) = plan.program.projection_id(&planned.projection) else { continue };
        let (sink_events, events) = mpsc::unbounded_channel();
        engine_sinks.push(EngineSink { projection, events: sink_events });
        let (state_sender, mut state) = watch::channel(SourceState::Connecting);
        let counted: Arc<Counters> = Arc::default();
        counters.push((format!("INSERT INTO {name}").into(), Arc::clone(&counted)));
        let link = SinkLink { name: Arc::clone(&name), events, state: state_sender.clone(), counters: counted };
        let run = sink.run(link);
        tasks.spawn(async move {
            run.await;
            state_sender.send_if_modified(ended_by_itself);
        });
        let board = Arc::clone(&board);
        tasks.spawn(async move {
            loop {
                let now = state.borrow_and_update().clone();
                board.set_sink(&name, &now);
                if state.changed().await.is_err() {
                    return;
                }
            }
        });
    }
    let engine =
        Engine::new(plan.program, engine_sources, Arc::clone(&hub), Arc::clone(&board), projections, engine_sinks);
    let (ended_sender, ended) = watch::channel(None);
    // A thread of its own: a step may take long, and must not keep sockets waiting.
    let engine = thread::Builder::new().name("engine".to_owned()).spawn(move || {
        let ended = engine.run(events).context("the engine stopped, which is a mistake of ours; please report it");
        ended_sender.send_replace(Some(if ended.is_err() { Ended::Failed } else { Ended::WithoutSources }));
        ended
    })?;

    let server = project.config.server;
    let mut authenticator: Arc<dyn Authenticator> = Arc::new(Strangers);
    if let Some(config) = &project.config.auth
        && let Some((verifier, keeper)) = auth::open(config)?
    {
        tasks.spawn(keeper.run());
        authenticator = Arc::new(auth::Tokens::new(config, verifier));
    }
    let gate = Gate::new(address.ip().is_loopback(), &server.allowed_origins, &server.allowed_hosts)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let more_metrics = {
        let board = Arc::clone(&board);
        Arc::new(move |registry: &mut _| {
            board.register(registry, &names);
            register_counters(registry, &counters);
        })
    };
    let stopped = async move {
        let _ = stopped.await;
    };
    let serving = tokio::spawn(serve(
        listener,
        Arc::clone(&hub),
        Entrance { gate, authenticator },
        options.serve.unwrap_or_else(|| serve_options(&project.config.limits)),
        board.subscribe(),
        more_metrics,
        stopped,
    ));
    Ok(Running { address, health: board.subscribe(), hub, stop, serving: Some(serving), tasks, engine, ended })
}

impl Running {
    /// Resolves, with what happened, when a part of the program has failed: the program must end
    /// then, since the rest of it would go on saying that all is well.
    pub async fn failed(&mut self) -> &'static str {
        let Running { ended, tasks, serving, .. } = self;
        let engine = async {
            match ended.wait_for(Option::is_some).await.map(|ended| *ended) {
                // Every source waits for an operator, or one of them has panicked.
                Ok(Some(Ended::WithoutSources)) => std::future::pending().await,
                Ok(_) => "the engine failed",
                Err(_) => "the engine panicked",
            }
        };
        let server = async {
            if let Some(serving) = serving.as_mut() {
                let _ = serving.await;
            }
        };
        tokio::select! {
            what = engine => what,
            () = panicked(tasks) => "a source panicked",
            () = server => {
                self.serving = None;
                "the server panicked"
            }
        }
    }

    /// Ends sources, engine and server, in that order.
    ///
    /// # Errors
    /// When the engine had failed.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.tasks.shutdown().await;
        let _ = self.stop.send(());
        if let Some(serving) = self.serving {
            let _ = serving.await;
        }
        match tokio::task::spawn_blocking(move || self.engine.join()).await? {
            Ok(ended) => ended,
            Err(_) => anyhow::bail!("the engine panicked, which is a mistake of ours; please report it with the log"),
        }
    }
}

/// A source that has ended says why it stopped. One that has not must not go on saying what it did
/// last.
fn ended_by_itself(state: &mut SourceState) -> bool {
    let is_silent = !matches!(state, SourceState::Stopped { .. });
    if is_silent {
        let (error, remedy) = ("it ended without a reason", "restart, and please report this with the log");
        *state = SourceState::Stopped { error: error.to_owned(), remedy: remedy.to_owned() };
    }
    is_silent
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

/// `[limits]` as the push layer has them.
fn serve_options(limits: &LimitsConfig) -> ServeOptions {
    ServeOptions {
        connections_max: limits.connections,
        connections_per_address_max: limits.connections_per_address,
        connections_per_subject_max: limits.connections_per_subject,
        session: Arc::new(SessionLimits {
            subscriptions_max: limits.subscriptions_per_session,
            interval_min: limits.batch_min,
            interval_max: limits.batch_max,
            filter_weight_max: limits.filter_weight,
            window_rows_max: limits.window_rows,
            images_max: limits.images,
        }),
        message_bytes_max: limits.message_size,
        messages_per_second: u32::try_from(limits.messages_per_second).unwrap_or(u32::MAX),
        messages_burst: u32::try_from(limits.message_burst).unwrap_or(u32::MAX),
        handshake_timeout: limits.handshake_time,
        idle_timeout: limits.idle_time,
        write_timeout: limits.write_time,
        held_bytes_max: limits.held_size,
        ..ServeOptions::default()
    }
}

fn describe(projection: &sql::PlannedProjection) -> anyhow::Result<push::Projection> {
    let key = projection.key.columns().map(<[usize]>::to_vec);
    let described = push::Projection::new(projection.name.clone(), Arc::clone(&projection.schema), key)?;
    Ok(push::Projection {
        description: projection.description.clone(),
        order: projection.order.iter().map(|by| (by.column, by.descending)).collect(),
        batch: projection.batch,
        access: projection.access.clone(),
        ..described
    })
}
