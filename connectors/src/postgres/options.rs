//! What a project says of its Postgres tables, and which of them are read together.

use std::io;

use pgwire_replication::PgWireError;

use crate::source::{Connector, Opened, Problem, TableOption, TableRequest as Wanted};

use super::catalog::TableRequest;
use super::connect::Target;
use super::error::{Response, SourceError, chain, response_to};
use super::publication::Publication;
use super::source::{Postgres, SourceOptions};

/// `WITH (connector = 'postgres')`.
pub const CONNECTOR: Connector = Connector {
    name: "postgres",
    of_tables: "a Postgres table",
    options: &[
        TableOption::required("url", "add url = '${DATABASE_URL}', such as postgres://user:password@host/database"),
        TableOption::optional("table"),
        TableOption::optional("source"),
        TableOption::optional("publication"),
        TableOption::optional("slot"),
    ],
    open,
    ..Connector::NONE
};

/// Tables of one database and publication are one source: one slot, one order of transactions.
fn open(project: &str, tables: Vec<Wanted>) -> Opened {
    let default_name = format!("deltafront_{project}");
    let mut sources: Vec<Postgres> = Vec::new();
    let mut problems = Vec::new();
    for mut table in tables {
        let target = match Target::parse(&table.options.remove("url").unwrap_or_default()) {
            Ok(target) => target,
            Err(error) => {
                problems.push(problem(Some(table.name), &error));
                continue;
            }
        };
        let publication = match table.options.remove("publication") {
            Some(name) => Publication { name, is_ours: false },
            None => Publication { name: default_name.clone(), is_ours: true },
        };
        let options = SourceOptions {
            name: table.options.remove("source").unwrap_or_else(|| target.database.clone()),
            publication,
            slot: table.options.remove("slot").unwrap_or_else(|| default_name.clone()),
        };
        let (schema, name) = match table.options.remove("table") {
            None => ("public".to_owned(), table.name.clone()),
            Some(name) => match name.split_once('.') {
                Some((schema, name)) => (schema.to_owned(), name.to_owned()),
                None => ("public".to_owned(), name),
            },
        };
        let request = TableRequest { name: table.name, schema, table: name, columns: table.columns };
        match sources.iter_mut().find(|source| source.reads_from(&target, &options)) {
            Some(source) => source.add(request),
            None => sources.push(Postgres::new(target, options, request)),
        }
    }
    Opened { sources: sources.into_iter().map(|source| Box::new(source) as _).collect(), problems }
}

/// An error in the words of all sources.
pub(super) fn problem(table: Option<String>, error: &SourceError) -> Problem {
    let remedy = match (response_to(error), error) {
        (Response::Stop(remedy), _) => remedy,
        (Response::Retry, SourceError::Disconnected { cause, .. }) if is_of_tls(cause) => {
            "the server has no TLS, or not such as the url asks for: see its ssl settings, and sslmode and sslrootcert \
             in the url (sslmode=disable asks for none)"
                .to_owned()
        }
        (Response::Retry, _) => {
            "start the database, or check host and port in the url; `check --offline` asks no database".to_owned()
        }
    };
    Problem { table, what: chain(error), remedy }
}

/// Whether somebody answers, and TLS is what the two can't agree on.
fn is_of_tls(cause: &io::Error) -> bool {
    matches!(cause.get_ref().and_then(|inner| inner.downcast_ref::<PgWireError>()), Some(PgWireError::Tls(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, options: &[(&str, &str)]) -> Wanted {
        let options = options.iter().map(|&(option, value)| (option.to_owned(), value.to_owned())).collect();
        Wanted { name: name.to_owned(), options, columns: None, key: Vec::new() }
    }

    /// A server that answers and has no TLS is there: to start it was no remedy.
    #[tokio::test]
    async fn a_server_without_tls_is_not_one_that_is_down() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a client");
            let mut asked = [0; 8];
            socket.read_exact(&mut asked).await.expect("an SSLRequest");
            socket.write_all(b"N").await.expect("an answer");
        });
        let target = Target::parse(&format!("postgres://{address}/shop?sslmode=require")).expect("a url");
        let error = target.sql().await.expect_err("no TLS");
        let Problem { what, remedy, .. } = problem(None, &error);
        assert!(what.contains("server does not support TLS") && remedy.contains("sslmode=disable"), "{what}: {remedy}");
        let target = Target::parse(&format!("postgres://{address}/shop?sslmode=disable")).expect("a url");
        let Problem { remedy, .. } = problem(None, &target.sql().await.expect_err("nobody listens"));
        assert!(remedy.contains("start the database"), "{remedy}");
    }

    #[test]
    fn tables_of_one_database_are_one_source_and_a_bad_url_is_its_tables_problem() {
        let shop = ("url", "postgres://ann:secret@db/shop");
        let opened = open(
            "test",
            vec![
                wanted("a", &[shop]),
                wanted("b", &[shop, ("table", "sales.orders")]),
                wanted("c", &[("url", "postgres://db/other")]),
                wanted("d", &[shop, ("slot", "mine"), ("source", "again")]),
                wanted("e", &[("url", "postgres://ann:secret@db/shop?sslmode=maybe")]),
            ],
        );
        let sources: Vec<(&str, Vec<&str>)> =
            opened.sources.iter().map(|source| (source.name(), source.table_names())).collect();
        assert_eq!(sources, [("shop", vec!["a", "b"]), ("other", vec!["c"]), ("again", vec!["d"])]);
        let [problem] = &opened.problems[..] else { panic!("one problem: {:?}", opened.problems) };
        assert_eq!((problem.table.as_deref(), problem.what.as_str()), (Some("e"), "there is no sslmode maybe"));
    }
}
