//! `cargo xtask bench copy`: rows a second of the first copy, next to COPY into nothing.

use std::time::Instant;

use anyhow::Result;
use futures_util::StreamExt;
use tests::{ProjectFolder, Server, connect, postgres};

use crate::numbers::figure;

const ROWS: u64 = 1_000_000;

pub fn run() -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let postgres = postgres();
        let client = connect(&postgres, "shop").await;
        client
            .batch_execute(&format!(
                "CREATE TABLE t (id bigint PRIMARY KEY, a int, b text, at timestamptz, price numeric(10,2), x float8, u uuid, f bool);
                 INSERT INTO t SELECT n, n % 100, 'some text ' || n, now(), n % 1000 / 7.0, n / 3.0, gen_random_uuid(), n % 2 = 0 FROM generate_series(1, {ROWS}) n;
                 ANALYZE t"
            ))
            .await?;
        let started = Instant::now();
        let mut stream = std::pin::pin!(client.copy_out("COPY t TO STDOUT").await?);
        let mut bytes = 0;
        while let Some(chunk) = stream.next().await {
            bytes += chunk?.len();
        }
        let bare = started.elapsed().as_secs_f64();
        let project = ProjectFolder::new(
            &postgres,
            "CREATE TABLE t WITH (connector = 'postgres', url = '$DB'); CREATE MATERIALIZED VIEW v AS SELECT a, count(*) AS n, sum(price) AS p FROM t GROUP BY a;",
        );
        let started = Instant::now();
        let server = Server::start(&project).await;
        let ours = started.elapsed().as_secs_f64();
        println!("{ROWS} rows of 8 columns, {} MB: COPY into nothing {bare:.2} s, until the projection is served {ours:.2} s", bytes >> 20);
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        figure("copy_rows_per_second", ROWS as f64 / ours, "rows/s");
        figure("copy_over_bare_copy", ours / bare, "ratio");
        server.stop().await;
        Ok(())
    })
}
