//! The client against a scripted server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;

use super::*;

/// What was asked: path and `Authorization`.
pub(crate) type Asked = (String, Option<String>);

/// A server that answers each request as told, and tells what it was asked.
pub(crate) struct Server {
    pub(crate) url: String,
    asked: mpsc::Receiver<Asked>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (tell, asked) = mpsc::channel();
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (tell, answer) = (tell.clone(), Arc::clone(&answer));
                thread::spawn(move || serve(socket, &tell, &*answer));
            }
        });
        Server { url, asked }
    }

    fn options(&self) -> RegistryOptions {
        RegistryOptions { urls: vec![self.url.clone()], ..RegistryOptions::default() }
    }

    fn paths(&self) -> Vec<String> {
        self.asked.try_iter().map(|(path, _)| path).collect()
    }
}

fn serve(mut socket: impl Read + Write, tell: &mpsc::Sender<Asked>, answer: &dyn Fn(&str) -> (u16, String)) {
    loop {
        let mut lines = Vec::new();
        let mut reader = BufReader::new(&mut socket);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let path = lines[0].split(' ').nth(1).expect("a path").to_owned();
        let authorization = lines.iter().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("authorization").then(|| value.to_owned())
        });
        let (status, body) = answer(&path);
        let _ = tell.send((path, authorization));
        // At once: the second of two writes would wait 40 ms for the first to be acknowledged.
        let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let _ = socket.write_all(answer.as_bytes());
    }
}

fn not_found() -> (u16, String) {
    (404, r#"{"error_code":40403,"message":"Schema not found"}"#.to_owned())
}

fn reason(error: SchemaError) -> String {
    match error {
        SchemaError::Bad(reason) => format!("bad: {reason}"),
        SchemaError::Unavailable(reason) => format!("unavailable: {reason}"),
    }
}

#[test]
fn a_frame_is_a_zero_and_a_number() {
    assert_eq!(framed(&[0, 0, 0, 1, 2, 9, 8]), Ok((258, &[9, 8][..])));
    assert_eq!(framed(&[0, 255, 255, 255, 255]), Ok((u32::MAX, &[][..])));
    assert!(framed(&[]).expect_err("empty").contains("empty"));
    assert!(framed(&[0, 0, 0, 1]).expect_err("short").contains("4 bytes"));
    assert!(framed(b"{\"a\":1}").expect_err("json").contains("byte 123"));
}

#[test]
fn a_schema_is_asked_for_once_and_its_references_come_in_the_order_of_their_use() {
    let server = Server::start(|path| {
        let body = match path {
            "/schemas/ids/7" => {
                r#"{"schema":"top","schemaType":"PROTOBUF","references":[
                    {"name":"b.proto","subject":"b","version":2},{"name":"c.proto","subject":"dir/c","version":1}]}"#
            }
            "/subjects/b/versions/2?deleted=true" => {
                r#"{"subject":"b","version":2,"id":3,"schema":"B","references":[{"name":"c.proto","subject":"dir/c","version":1}]}"#
            }
            "/subjects/dir%2Fc/versions/1?deleted=true" => r#"{"schema":"C","references":null}"#,
            _ => return not_found(),
        };
        (200, body.to_owned())
    });
    let registry = Registry::new(&server.options()).expect("a registry");
    for _ in 0..3 {
        let schema = registry.clone().schema(7).expect("a schema");
        assert_eq!((schema.language, &*schema.text), (Language::Protobuf, "top"));
        let of = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(schema.references, [of("c.proto", "C"), of("b.proto", "B")]);
    }
    assert_eq!(server.paths().len(), 3);
}

#[test]
fn schemas_that_refer_in_circles_or_to_nothing_end() {
    let server = Server::start(|path| match path {
        "/schemas/ids/1" => {
            (200, r#"{"schema":"top","references":[{"name":"a","subject":"a","version":1}]}"#.to_owned())
        }
        "/schemas/ids/2" => {
            (200, r#"{"schema":"top","references":[{"name":"gone","subject":"gone","version":1}]}"#.to_owned())
        }
        "/subjects/a/versions/1?deleted=true" => {
            (200, r#"{"schema":"a","references":[{"name":"a","subject":"a","version":1}]}"#.to_owned())
        }
        _ => not_found(),
    });
    let registry = Registry::new(&server.options()).expect("a registry");
    assert_eq!(registry.schema(1).expect("a schema").references.len(), 1);
    assert!(
        reason(registry.schema(2).expect_err("nothing")).starts_with("bad: its schema refers to version 1 of gone")
    );
}

#[test]
fn ten_thousand_messages_of_an_unknown_id_are_one_question_and_it_is_found_later() {
    let registered = Arc::new(AtomicUsize::new(0));
    let server = Server::start({
        let registered = Arc::clone(&registered);
        move |_| match registered.load(Ordering::SeqCst) {
            0 => not_found(),
            _ => (200, r#"{"schema":"\"int\""}"#.to_owned()),
        }
    });
    let registry = Registry::with_miss_time(&server.options(), Duration::from_millis(300)).expect("a registry");
    let begun = Instant::now();
    for _ in 0..10_000 {
        assert_eq!(reason(registry.schema(5).expect_err("none")), "bad: the schema registry has no schema 5");
    }
    assert!(server.paths().len() <= 1 + begun.elapsed().as_millis() as usize / 300);
    registered.store(1, Ordering::SeqCst);
    thread::sleep(Duration::from_millis(301));
    assert_eq!(registry.schema(5).expect("a schema").text, "\"int\"");
}

#[test]
fn only_the_registry_itself_can_say_that_there_is_no_schema() {
    for (status, body, expected) in [
        (500, "", "unavailable"),
        (503, "<html>", "unavailable"),
        (404, "<html>", "unavailable"),
        (404, r#"{"error_code":404,"message":"HTTP 404 Not Found"}"#, "unavailable"),
        (404, r#"{"error_code":40403}"#, "bad"),
        (401, "", "unavailable"),
        (429, "", "unavailable"),
        (302, "", "unavailable"),
        (200, "<html>", "unavailable"),
        (200, r#"{"schema":"x","schemaType":"XML"}"#, "bad"),
    ] {
        let server = Server::start(move |_| (status, body.to_owned()));
        let registry = Registry::new(&server.options()).expect("a registry");
        let found = reason(registry.schema(1).expect_err("none"));
        assert!(found.starts_with(expected), "{status} {body}: {found}");
    }
}

#[test]
fn an_answer_is_bounded_in_size_and_time() {
    let server = Server::start(|_| (200, format!("{{\"schema\":\"{}\"}}", "x".repeat(9 << 20))));
    let found = Registry::new(&server.options()).expect("a registry").schema(1).expect_err("too large");
    assert!(matches!(found, SchemaError::Unavailable(_)), "{found:?}");

    let server = Server::start(|_| {
        thread::sleep(Duration::from_secs(5));
        not_found()
    });
    let options = RegistryOptions { timeout: Some(Duration::from_millis(100)), ..server.options() };
    let begun = Instant::now();
    let found = Registry::new(&options).expect("a registry").schema(1).expect_err("too slow");
    assert!(matches!(found, SchemaError::Unavailable(_)), "{found:?}");
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[test]
fn another_address_stands_in_for_one_that_is_down_and_is_then_asked_first() {
    let down = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let broken = Server::start(|_| (500, String::new()));
    let server = Server::start(|_| (200, r#"{"schema":"x"}"#.to_owned()));
    let urls = vec![format!("http://u:secret@{down}"), broken.url.clone(), format!("{}/", server.url)];
    let options = RegistryOptions { urls, ..RegistryOptions::default() };
    let registry = Registry::new(&options).expect("a registry");
    assert!(registry.schema(1).is_ok() && registry.schema(2).is_ok());
    assert_eq!((broken.paths().len(), server.paths().len()), (1, 2));

    let options = RegistryOptions { urls: options.urls[..2].to_vec(), ..options };
    let told = reason(Registry::new(&options).expect("a registry").schema(1).expect_err("none answers"));
    assert!(told.contains(&down.to_string()) && told.contains("status 500"), "{told}");
    assert!(!told.contains("secret") && !told.contains("u:"), "{told}");
}

#[test]
fn credentials_are_sent_and_never_told() {
    let server = Server::start(|_| (403, String::new()));
    let host = server.url.strip_prefix("http://").expect("http").to_owned();
    let of = |url: String, basic: Option<(&str, &str)>, token: Option<&str>| {
        let basic = basic.map(|(user, password)| (user.to_owned(), password.to_owned()));
        let options =
            RegistryOptions { urls: vec![url], basic, token: token.map(str::to_owned), ..RegistryOptions::default() };
        let told = reason(Registry::new(&options).expect("a registry").schema(1).expect_err("refused"));
        assert!(!told.contains("p%40ss") && !told.contains("p@ss"), "{told}");
        server.asked.recv().expect("asked").1
    };
    let basic = |text: &str| Some(format!("Basic {}", STANDARD.encode(text)));
    assert_eq!(of(format!("http://{host}"), None, None), None);
    assert_eq!(of(format!("http://ann:p%40ss@{host}/"), None, None), basic("ann:p@ss"));
    assert_eq!(of(format!("http://{host}"), Some(("ann", "p@ss")), None), basic("ann:p@ss"));
    assert_eq!(of(format!("http://{host}"), None, Some("p@ss")), Some("Bearer p@ss".to_owned()));

    for bad in
        ["", "host:8081", "ftp://host", "http://", "http://u:secret@", "http://u:secret%2@h", "http://h/?a=secret"]
    {
        let options = RegistryOptions { urls: vec![bad.to_owned()], ..RegistryOptions::default() };
        let error = Registry::new(&options).err().expect(bad);
        assert_eq!(error, RegistryOptionError::BadAddress(1), "{bad}");
        assert!(!error.to_string().contains("secret"));
    }
    let options = RegistryOptions { token: Some("a\r\nb".to_owned()), ..server.options() };
    assert_eq!(Registry::new(&options).err(), Some(RegistryOptionError::BadCredentials));
}

#[test]
fn the_newest_schema_of_a_subject_is_believed_for_a_moment() {
    let server = Server::start(|path| match path {
        "/subjects/orders-value/versions/latest" => (200, r#"{"schema":"x","version":3,"id":9}"#.to_owned()),
        _ => (404, r#"{"error_code":40401,"message":"Subject not found."}"#.to_owned()),
    });
    let registry = Registry::new(&server.options()).expect("a registry");
    for _ in 0..3 {
        assert_eq!(registry.subject("orders-value").latest().expect("answers").expect("a schema").text, "x");
        assert_eq!(registry.subject("a b").latest().expect("answers"), None);
    }
    assert_eq!(server.paths(), ["/subjects/orders-value/versions/latest", "/subjects/a%20b/versions/latest"]);
}

/// A server with a certificate of an authority of ours is believed by who trusts that one, under the
/// name that the certificate has.
#[test]
fn a_registry_must_prove_who_it_is() {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned()];
    let certificate = CertificateParams::new(names).expect("a name").signed_by(&key, &issuer).expect("signed");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).expect("a key"))
        .expect("a certificate");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let connection = ServerConnection::new(Arc::clone(&config)).expect("a connection");
            let tell = mpsc::channel().0;
            thread::spawn(move || {
                serve(StreamOwned::new(connection, socket), &tell, &|_| (200, r#"{"schema":"x"}"#.to_owned()));
            });
        }
    });
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("authorities.pem");
    std::fs::write(&file, issuer.pem()).expect("written");
    let ask = |host: &str, authorities: Option<&PathBuf>| {
        let urls = vec![format!("https://{host}:{port}")];
        let options = RegistryOptions { urls, authorities: authorities.cloned(), ..RegistryOptions::default() };
        Registry::new(&options).expect("a registry").schema(1).map(|schema| schema.text.clone())
    };
    assert_eq!(ask("localhost", Some(&file)), Ok("x".to_owned()));
    assert!(matches!(ask("localhost", None), Err(SchemaError::Unavailable(_))), "not one of Mozilla's");
    assert!(matches!(ask("127.0.0.1", Some(&file)), Err(SchemaError::Unavailable(_))), "another name");
    std::fs::write(&file, "nothing").expect("written");
    let options = RegistryOptions { urls: vec!["https://h".to_owned()], authorities: Some(file), ..Default::default() };
    assert!(matches!(Registry::new(&options).err(), Some(RegistryOptionError::BadAuthorities(_))));
}

#[test]
fn who_is_refused_hears_what_to_look_at() {
    for status in [401, 403] {
        let server = Server::start(move |_| (status, String::new()));
        let registry = Registry::new(&server.options()).expect("a registry");
        assert!(reason(registry.schema(1).expect_err("refused")).contains("user, password or token"));
    }
}

#[test]
fn a_user_with_a_colon_is_refused_since_it_would_be_another_one() {
    let options = |user: &str| RegistryOptions {
        urls: vec!["http://127.0.0.1:1".to_owned()],
        basic: Some((user.to_owned(), "password".to_owned())),
        ..RegistryOptions::default()
    };
    assert!(Registry::new(&options("user")).is_ok());
    assert!(matches!(Registry::new(&options("us:er")), Err(RegistryOptionError::BadCredentials)));
}

#[test]
fn what_a_url_escapes_is_what_it_says() {
    assert_eq!(unescaped("a%3A%40b"), Some(b"a:@b".to_vec()));
    assert_eq!((unescaped("%3"), unescaped("%zz")), (None, None));
}

#[test]
fn a_schema_refers_to_many_others_and_not_to_too_many() {
    let chain = |path: &str| {
        let next = |place: usize| {
            format!(r#"{{"schema":"s","references":[{{"name":"{place}","subject":"{place}","version":1}}]}}"#)
        };
        let place = |text: &str| text.split('/').nth(2).and_then(|place| place.parse::<usize>().ok());
        match (path, place(path)) {
            ("/schemas/ids/1", _) => next(1),
            ("/schemas/ids/2", _) => next(0),
            (_, Some(REFERENCES_MAX)) | (_, None) => r#"{"schema":"last"}"#.to_owned(),
            (_, Some(place)) => next(place + 1),
        }
    };
    let server = Server::start(move |path| (200, chain(path)));
    let registry = Registry::new(&server.options()).expect("a registry");
    assert_eq!(registry.schema(1).expect("a schema").references.len(), REFERENCES_MAX);
    assert!(reason(registry.schema(2).expect_err("one more")).contains("more than"));
}
