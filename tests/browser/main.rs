//! The page, in a real Chromium driven over WebDriver.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tests::{PrivatePostgres, ProjectFolder, Server, eventually};

const CHROMIUM: [&str; 3] = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

/// A browser window, gone when it is dropped.
struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser when it is asked to shut down; killing it would not.
        let _ = Command::new("kill").arg(self.driver.id().to_string()).status();
        let _ = self.driver.wait();
    }
}

impl Browser {
    async fn open() -> Browser {
        let binary = CHROMIUM
            .into_iter()
            .find(|path| std::path::Path::new(path).exists())
            .expect("`cargo xtask test` installs Chromium");
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("`cargo xtask test` installs chromedriver");
        let profile = tempfile::tempdir().expect("a profile");
        let mut browser = Browser { driver, port, session: String::new(), _profile: profile };
        let status = || async {
            browser.try_call("GET", "/status", None).await.is_some_and(|answer| answer["value"]["ready"] == true)
        };
        eventually(status, |ready| *ready).await;
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--window-size=1200,800",
            &format!("--user-data-dir={}", browser._profile.path().display()),
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "binary": binary, "args": arguments }, "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let answer = browser.call("POST", "/session", Some(capabilities)).await;
        browser.session =
            format!("/session/{}", answer["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {answer}")));
        browser
    }

    async fn try_call(&self, method: &str, path: &str, body: Option<Value>) -> Option<Value> {
        let socket = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.ok()?;
        tokio::spawn(connection);
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", format!("127.0.0.1:{}", self.port))
            .header("content-type", "application/json");
        let response = sender.send_request(request.body(Full::new(body)).ok()?).await.ok()?;
        let body = response.into_body().collect().await.ok()?.to_bytes();
        serde_json::from_slice(&body).ok()
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let answer =
            self.try_call(method, &format!("{}{path}", self.session), body).await.expect("an answer of the driver");
        assert!(answer["value"]["error"].is_null(), "{method} {path}: {}", answer["value"]);
        answer["value"].clone()
    }

    async fn run(&self, script: &str) -> Value {
        self.call("POST", "/execute/sync", Some(json!({ "script": script, "args": [] }))).await
    }

    async fn screenshot(&self, name: &str) {
        let Some(folder) = std::env::var_os("SCREENSHOTS") else { return };
        let picture = self.call("GET", "/screenshot", None).await;
        let text = picture.as_str().expect("base64");
        let file = std::path::Path::new(&folder).join(name);
        let decode = Command::new("base64")
            .arg("-d")
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(file).expect("a file"))
            .spawn();
        std::io::Write::write_all(decode.expect("base64").stdin.as_mut().expect("a pipe"), text.as_bytes())
            .expect("written");
    }
}

const TABLE: &str =
    "return [...document.querySelectorAll('#rows tr')].map(line => [...line.children].map(cell => cell.textContent))";

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_live() {
    let postgres = PrivatePostgres::start().expect("a private Postgres");
    postgres.load_storefront("storefront").expect("the sample");
    let server = Server::start(&ProjectFolder::storefront(&postgres)).await;
    let browser = Browser::open().await;
    browser
        .call("POST", "/url", Some(json!({ "url": format!("http://{}/#revenue_by_region", server.address()) })))
        .await;
    eventually(|| browser.run("return document.getElementById('connection').textContent"), |text| text == "live").await;
    let names =
        browser.run("return [...document.querySelectorAll('#projections button')].map(it => it.textContent)").await;
    assert_eq!(names, json!(["customers_without_orders", "open_orders", "revenue_by_region", "top_products"]));
    let table = eventually(|| browser.run(TABLE), |table| table.as_array().is_some_and(|table| table.len() == 4)).await;
    assert_eq!(
        table.as_array().expect("rows").iter().map(|row| row[0].clone()).collect::<Vec<_>>(),
        ["east", "north", "south", "west"]
    );

    // The browser's own EventSource beside it.
    browser
        .run("window.told = []; window.source = new EventSource('/v1/projections/revenue_by_region/changes?region=neq.east'); source.onmessage = event => told.push({ at: event.lastEventId, ...JSON.parse(event.data) })")
        .await;
    let told = eventually(|| browser.run("return told"), |told| told[0]["last"] == true).await;
    assert_eq!(told[0]["rows"].as_array().expect("rows").len(), 3);

    // A change in Postgres is a change on the page: the row comes, and its cells flash.
    postgres
        .psql_in(
            "storefront",
            "UPDATE customers SET region = 'moon' WHERE id IN (SELECT customer_id FROM orders ORDER BY id LIMIT 1)",
        )
        .expect("a change");
    let table = eventually(|| browser.run(TABLE), |table| table.as_array().is_some_and(|table| table.len() == 5)).await;
    assert_eq!(table[1][0], "moon");
    let flashing = browser.run("return document.querySelectorAll('#rows td.changed').length").await;
    assert!(flashing.as_u64().is_some_and(|cells| cells > 0), "{flashing}");
    let expected = postgres
        .psql_in("storefront", "SELECT count(DISTINCT o.id) || '|' || sum(l.quantity * l.price) FROM orders o JOIN customers c ON c.id = o.customer_id JOIN order_lines l ON l.order_id = o.id WHERE c.region = 'moon'")
        .expect("Postgres's answer");
    assert_eq!(
        format!("{}|{}", table[1][1].as_str().expect("orders"), table[1][2].as_str().expect("revenue")),
        expected
    );

    let told = eventually(|| browser.run("return told"), |told| told[1]["op"] == "diff").await;
    assert!(told[1]["diffs"][0]["upsert"].to_string().contains("moon"), "{told}");
    assert_ne!(told[0]["at"], told[1]["at"]);

    // The chart and its figures move, and another projection can be chosen.
    postgres
        .psql_in("storefront", "CALL generate(seed => 0.5, changes_per_second => 20, changes => 60)")
        .expect("a load");
    eventually(
        || browser.run("return document.getElementById('latency').textContent"),
        |text| text.as_str().is_some_and(|text| text.ends_with(" ms")),
    )
    .await;
    browser.screenshot("revenue.png").await;
    browser.run("[...document.querySelectorAll('#projections button')].find(it => it.textContent === 'top_products').click()").await;
    let table =
        eventually(|| browser.run(TABLE), |table| table.as_array().is_some_and(|table| table.len() == 10)).await;
    let revenue: Vec<f64> = table
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| row[4].as_str().expect("a cell").parse().expect("a number"))
        .collect();
    assert!(revenue.is_sorted_by(|a, b| a >= b), "sorted as the projection says: {revenue:?}");
    let drawn = "const c = document.getElementById('chart'); return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v > 0)";
    assert_eq!(browser.run(drawn).await, true);
    browser.screenshot("top.png").await;
    let log = browser.call("POST", "/se/log", Some(json!({ "type": "browser" }))).await;
    assert_eq!(log, json!([]), "the console is empty");

    // The server goes; the page says so, and comes back with it.
    let address = server.address();
    server.stop().await;
    eventually(|| browser.run("return document.getElementById('connection').dataset.state"), |state| state != "live")
        .await;
    let listen = Some(address.parse().expect("an address"));
    let folder = ProjectFolder::storefront(&postgres);
    let running = server::run::start(folder.path(), server::run::RunOptions { listen, ..Default::default() })
        .await
        .expect("a restart");
    let server = Server { running };
    server.ready().await;
    eventually(|| browser.run("return document.getElementById('connection').textContent"), |text| text == "live").await;
    eventually(|| browser.run(TABLE), |table| table.as_array().is_some_and(|table| table.len() == 10)).await;
    // It has come back too, and knows that this is another run of the server.
    eventually(
        || browser.run("return told.at(-1).reset ?? told.findLast(it => it.reset)?.reset"),
        |reset| reset == "restart",
    )
    .await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(browser);
    server.stop().await;
}
