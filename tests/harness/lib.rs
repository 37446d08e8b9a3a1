//! What end-to-end tests and benches are made of: a private Postgres, a project in a folder, a
//! server, and clients that accumulate what they are sent.

pub mod client;
pub mod http;
pub mod script;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use push::ServeOptions;
use server::run::{RunOptions, Running, start};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};
pub use xtask::postgres::PrivatePostgres;

pub use client::Subscriber;

/// Longest wait for anything. Reached only when a test fails, so it is generous: CI's machines are
/// shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A Postgres with an empty database `shop`.
///
/// # Panics
/// When it can't be started.
#[must_use]
pub fn postgres() -> PrivatePostgres {
    let postgres = PrivatePostgres::start().expect("a private Postgres");
    postgres.psql("CREATE DATABASE shop").expect("a database");
    postgres
}

/// A connection to a database.
///
/// # Panics
/// When it can't be made.
pub async fn connect(postgres: &PrivatePostgres, database: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(&postgres.url(database), NoTls).await.expect("a connection");
    tokio::spawn(connection);
    client
}

/// A project in a folder of its own.
pub struct ProjectFolder(pub TempDir);

impl ProjectFolder {
    /// A project of one file, in which `$DB` stands for the URL of the database `shop`.
    ///
    /// # Panics
    /// When it can't be written.
    #[must_use]
    pub fn new(postgres: &PrivatePostgres, sql: &str) -> ProjectFolder {
        ProjectFolder::of(&sql.replace("$DB", &postgres.url("shop")))
    }

    /// A project of one file that reads no Postgres. Its projections are for everyone, unless it says of any who
    /// may see it.
    ///
    /// # Panics
    /// When it can't be written.
    #[must_use]
    pub fn of(sql: &str) -> ProjectFolder {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("project.sql"), for_everyone(sql)).expect("a file");
        fs::write(folder.path().join("deltafront.toml"), "[project]\nname = \"test\"\n").expect("a file");
        ProjectFolder(folder)
    }

    /// A copy of the storefront example that reads the database `storefront`.
    ///
    /// # Panics
    /// When it can't be written.
    #[must_use]
    pub fn storefront(postgres: &PrivatePostgres) -> ProjectFolder {
        let folder = tempfile::tempdir().expect("a folder");
        copy_project(&xtask::root().join("examples/storefront"), folder.path(), &|text| {
            text.replace("${STOREFRONT_DB}", &postgres.url("storefront"))
        });
        ProjectFolder(folder)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Adds `public = 'true'` to every projection of a project that has neither that nor a policy: what is tested is
/// then what is served, not to whom.
#[must_use]
pub fn for_everyone(sql: &str) -> String {
    const PROJECTION: &str = "CREATE MATERIALIZED VIEW ";
    if sql.contains("CREATE POLICY") || sql.contains("public = '") {
        return sql.to_owned();
    }
    let mut statements = sql.split(PROJECTION);
    let mut public = statements.next().unwrap_or_default().to_owned();
    for statement in statements {
        let (head, query) = statement.split_once(" AS").unwrap_or((statement, ""));
        let head = if head.contains("WITH (") {
            head.replacen("WITH (", "WITH (public = 'true', ", 1)
        } else {
            format!("{head} WITH (public = 'true')")
        };
        public += &format!("{PROJECTION}{head} AS{query}");
    }
    public
}

fn copy_project(from: &Path, to: &Path, edit: &dyn Fn(&str) -> String) {
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target).expect("a folder");
            copy_project(&entry.path(), &target, edit);
        } else {
            fs::write(target, edit(&fs::read_to_string(entry.path()).expect("a text"))).expect("a file");
        }
    }
}

/// A server on a free port of this machine, ready.
pub struct Server {
    /// The server.
    pub running: Running,
}

impl Server {
    /// Starts a server and waits until it has copied everything.
    ///
    /// # Panics
    /// When it does not start or does not get ready.
    pub async fn start(project: &ProjectFolder) -> Server {
        Server::start_with(project, ServeOptions::default()).await
    }

    /// As [`Server::start`], with other treatment of clients.
    ///
    /// # Panics
    /// As [`Server::start`].
    pub async fn start_with(project: &ProjectFolder, serve: ServeOptions) -> Server {
        let server = Server::launch(project, serve).await;
        server.ready().await;
        server
    }

    /// As [`Server::start_with`], without waiting until it is ready.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn launch(project: &ProjectFolder, serve: ServeOptions) -> Server {
        Server::launch_with(project, RunOptions { serve: Some(serve), ..RunOptions::default() }).await
    }

    /// As [`Server::launch`], with other connectors too.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn launch_with(project: &ProjectFolder, options: RunOptions) -> Server {
        let listen = Some("127.0.0.1:0".parse().expect("an address"));
        match start(project.path(), RunOptions { listen, ..options }).await {
            Ok(running) => Server { running },
            Err(error) => panic!("the server does not start: {error:#}"),
        }
    }

    /// Waits until the server has copied everything.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn ready(&self) {
        let mut health = self.running.health.clone();
        let ready = tokio::time::timeout(PATIENCE, health.wait_for(|health| health.is_ready)).await;
        assert!(ready.is_ok(), "not ready: {:?}", self.running.health.borrow().sources);
    }

    /// Waits until a source's state contains these words.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn source_says(&self, words: &str) {
        let mut health = self.running.health.clone();
        let said = tokio::time::timeout(
            PATIENCE,
            health.wait_for(|health| health.sources.iter().any(|(_, state)| state.contains(words))),
        )
        .await;
        assert!(said.is_ok(), "no source says `{words}`: {:?}", self.running.health.borrow().sources);
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.running.address.to_string()
    }

    /// A client of this server.
    ///
    /// # Panics
    /// When it can't connect.
    pub async fn subscriber(&self) -> Subscriber {
        Subscriber::connect(&self.address()).await
    }

    /// Ends the server.
    ///
    /// # Panics
    /// When the engine had failed.
    pub async fn stop(self) {
        self.running.stop().await.expect("the engine did not fail");
    }

    /// The hub.
    #[must_use]
    pub fn hub(&self) -> Arc<push::Hub> {
        Arc::clone(&self.running.hub)
    }
}

/// Asks until the answer is as wanted.
///
/// # Panics
/// When that takes too long, with the last answer.
pub async fn eventually<T: std::fmt::Debug, F: Future<Output = T>>(
    mut ask: impl FnMut() -> F,
    is_wanted: impl Fn(&T) -> bool,
) -> T {
    let started = Instant::now();
    loop {
        let answer = ask().await;
        if is_wanted(&answer) {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "the answer is still {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::for_everyone;

    #[test]
    fn projections_are_for_everyone_unless_it_is_said_for_whom() {
        for (sql, expected) in [
            ("CREATE MATERIALIZED VIEW v AS SELECT 1", "CREATE MATERIALIZED VIEW v WITH (public = 'true') AS SELECT 1"),
            (
                "CREATE TABLE t; CREATE MATERIALIZED VIEW v WITH (key = 'n') AS SELECT 1 AS n; CREATE MATERIALIZED VIEW w AS\n SELECT 1",
                "CREATE TABLE t; CREATE MATERIALIZED VIEW v WITH (public = 'true', key = 'n') AS SELECT 1 AS n; CREATE MATERIALIZED VIEW w WITH (public = 'true') AS\n SELECT 1",
            ),
        ] {
            assert_eq!(for_everyone(sql), expected);
        }
        let said = "CREATE MATERIALIZED VIEW v AS SELECT 1; CREATE POLICY p ON v USING (true)";
        assert_eq!(for_everyone(said), said);
    }
}
