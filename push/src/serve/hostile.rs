//! Clients that mean no good, and slow ones that do: each kind on a real socket.

use std::process::Command;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use super::ServeOptions;
use super::codec::tests::client_frame;
use super::deflate::{deflate, inflate};
use super::testing::{Client, PATIENCE, Served, close_code, handshake, next_frame, raw_socket};
use crate::testing::{ample_hub, hub, publish};

const SUBSCRIBE: &str = r#"{"op":"subscribe","id":"a","projection":"keyed"}"#;
const PING: &[u8] = &[0x89, 0x80, 0, 0, 0, 0];
const EMPTY_PART: &[u8] = &[0x00, 0x80, 0, 0, 0, 0];

fn text_frame(text: &str) -> Vec<u8> {
    client_frame(0x81, text.as_bytes(), [1, 2, 3, 4])
}

/// A hub whose `keyed` has so many rows of a megabyte.
fn large_hub(megabytes: usize) -> std::sync::Arc<crate::hub::Hub> {
    let hub = hub(1 << 20);
    let long = "x".repeat(1 << 20);
    publish(&hub, 1, &(0..megabytes).map(|id| format!("+keyed({id},{long}) ")).collect::<String>());
    hub
}

/// Whether this process runs one test and no other, so that its memory is that test's. If not, starts
/// one that does, and waits for it.
fn is_alone(test: &str) -> bool {
    if std::env::var_os("ALONE").is_some() {
        return true;
    }
    let test = format!("serve::hostile::{test}");
    let program = std::env::current_exe().expect("this program");
    let status = Command::new(program).args(["--exact", &test, "--nocapture"]).env("ALONE", "1").status();
    assert!(status.expect("a process").success(), "{test} failed, alone");
    false
}

/// Bytes of memory that this process has resident.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number of pages") * 4096
}

/// Sends bytes over and over, until the server takes no more or ends the connection; how many it took.
async fn flood(socket: &mut TcpStream, bytes: &[u8], bytes_max: usize) -> usize {
    let many = bytes.repeat(1 + 60_000 / bytes.len());
    let mut taken = 0;
    while taken < bytes_max {
        match timeout(Duration::from_millis(500), socket.write(&many)).await {
            // Whole frames only: what was cut goes on.
            Ok(Ok(written)) => {
                taken += written;
                let cut = written % bytes.len();
                if cut > 0 && timeout(PATIENCE, socket.write_all(&bytes[cut..])).await.is_ok_and(|done| done.is_err()) {
                    break;
                }
            }
            _ => break,
        }
    }
    taken
}

/// Hundreds of clients that ask for 32 MB each and read nothing: the server holds a turn's frames for
/// each until the deadline, and serves others meanwhile.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn who_never_reads_costs_little() {
    if !is_alone("who_never_reads_costs_little") {
        return;
    }
    let options = ServeOptions { write_timeout: Duration::from_secs(2), ..ServeOptions::default() };
    let served = Served::start(large_hub(32), options).await;
    let before = resident_bytes();
    let mut silent = Vec::new();
    for _ in 0..100 {
        let (mut socket, _) = raw_socket(&served, "").await;
        socket.write_all(&text_frame(SUBSCRIBE)).await.expect("sent");
        silent.push(socket);
    }
    let mut other = Client::connect(&served).await;
    let asked = Instant::now();
    assert!(other.ask(r#"{"op":"ping"}"#).await.contains("heartbeat"));
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    served.metric("subscriptions", |subscriptions| subscriptions == 100).await;
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 200 << 20, "{} MB for clients that asked for 3,200 MB", grown >> 20);
    served.metric("sessions_stalled_total", |stalled| stalled == 100).await;
    served.metric("sessions", |sessions| sessions == 1).await;
}

/// Clients each of whom is sent a megabyte of its own and reads nothing, over sockets and by REST: when all of
/// them hold too much, those who were silent first go, and nobody waits for the deadline. Who reads is served.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn who_holds_too_much_goes_early() {
    if !is_alone("who_holds_too_much_goes_early") {
        return;
    }
    let options = ServeOptions {
        write_timeout: Duration::from_secs(600),
        held_bytes_max: 20 << 20,
        connections_max: 1000,
        ..ServeOptions::default()
    };
    let served = Served::start(large_hub(16), options).await;
    let before = resident_bytes();
    let mut silent = Vec::new();
    for i in 0..100 {
        let (mut socket, _) = raw_socket(&served, "").await;
        // No two ask the same.
        let filter = format!(r#"{{"id":{{"_gte":0,"_lt":{}}}}}"#, 1000 + i);
        let ask = format!(r#"{{"op":"subscribe","id":"a","projection":"keyed","where":{filter}}}"#);
        socket.write_all(&text_frame(&ask)).await.expect("sent");
        silent.push(socket);
    }
    served.metric("connections_shed_total", |shed| shed >= 50).await;
    let shed = served.metric("sessions", |sessions| sessions <= 50).await;
    assert!(shed >= 5, "those who came last are there still: {shed}");
    let request = b"GET /v1/projections/keyed HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for _ in 0..100 {
        let mut socket = TcpStream::connect(served.address).await.expect("a connection");
        socket.write_all(request).await.expect("sent");
        silent.push(socket);
    }
    served.metric("connections_shed_total", |shed| shed >= 150).await;
    served.metric("held_bytes", |held| held < 40 << 20).await;
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 120 << 20, "{} MB", grown >> 20);
    let mut other = Client::connect(&served).await;
    other.send(SUBSCRIBE).await;
    let mut bytes = 0;
    loop {
        let message = timeout(PATIENCE, other.next()).await.expect("it is served");
        bytes += message.len();
        if message.ends_with(r#""last":true}"#) {
            break;
        }
    }
    assert!(bytes > 16 << 20, "{bytes}");
    drop(silent);
    drop(other);
    served.metric("held_bytes", |held| held < 4 << 20).await;
}

/// To take a byte now and then is not progress.
#[tokio::test]
async fn who_reads_a_byte_at_a_time_is_dropped() {
    let options = ServeOptions { write_timeout: Duration::from_millis(500), ..ServeOptions::default() };
    let served = Served::start(large_hub(16), options).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small window");
    let mut socket = socket.connect(served.address).await.expect("a connection");
    socket.write_all(handshake("").as_bytes()).await.expect("sent");
    socket.write_all(&text_frame(SUBSCRIBE)).await.expect("sent");
    let started = Instant::now();
    let reading = async {
        while socket.read_u8().await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = reading => {}
        _ = served.metric("sessions_stalled_total", |stalled| stalled == 1) => {}
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    served.metric("sessions", |sessions| sessions == 0).await;
}

/// A client that takes long, but goes on taking, is served: the deadline is for each step, not for
/// all. It was dropped when a message as a whole took longer than the deadline.
#[tokio::test]
async fn who_reads_slowly_and_steadily_is_served() {
    let options = ServeOptions { write_timeout: Duration::from_millis(500), ..ServeOptions::default() };
    let served = Served::start(large_hub(8), options).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 << 10).expect("a small window");
    let mut socket = socket.connect(served.address).await.expect("a connection");
    socket.write_all(handshake("").as_bytes()).await.expect("sent");
    socket.write_all(&text_frame(SUBSCRIBE)).await.expect("sent");
    let started = Instant::now();
    let (mut taken, mut bytes) = (0, vec![0; 64 << 10]);
    while !bytes.windows(12).any(|window| window == br#""last":true}"#) {
        let read = timeout(PATIENCE, socket.read(&mut bytes)).await.expect("in time").expect("it is served");
        assert!(read > 0, "dropped after {taken} bytes and {:?}", started.elapsed());
        taken += read;
        sleep(Duration::from_micros(read as u64 / 4)).await;
    }
    assert!(taken > 8 << 20 && started.elapsed() > Duration::from_secs(1), "{taken} in {:?}", started.elapsed());
    served.metric("sessions_stalled_total", |stalled| stalled == 0).await;
}

/// A flood of anything ends with a code that says so.
#[tokio::test]
async fn who_floods_is_told_to_stop() {
    let served = Served::start(ample_hub(), ServeOptions::default()).await;
    for (what, begin) in [(PING, &[][..]), (EMPTY_PART, &[0x01, 0x80, 0, 0, 0, 0]), (&[0x8A, 0x80, 0, 0, 0, 0], &[])] {
        let (mut socket, _) = raw_socket(&served, "").await;
        socket.write_all(begin).await.expect("sent");
        socket.write_all(&what.repeat(400)).await.expect("sent");
        assert_eq!(close_code(&mut socket).await, 4500, "{what:X?}");
    }
    served.metric("sessions", |sessions| sessions == 0).await;
}

/// Ten thousand subscriptions of one client, each with a filter, columns or a window of its own: those that it may
/// have it has, and the others cost nothing.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn who_subscribes_without_end_is_refused() {
    if !is_alone("who_subscribes_without_end_is_refused") {
        return;
    }
    let options = ServeOptions { messages_burst: u32::MAX, ..ServeOptions::default() };
    let served = Served::start(ample_hub(), options).await;
    publish(&served.hub, 1, &(0..1000).map(|id| format!("+keyed({id},n{id}) ")).collect::<String>());
    let before = resident_bytes();
    for (pattern, code) in [("n%", "too_many_subscriptions"), ("n%a%b%c%d%", "too_heavy")] {
        let mut client = Client::connect(&served).await;
        let mut held = 0;
        for i in 0..10_000 {
            let what = match i % 3 {
                0 => format!(r#""where":{{"name":{{"_like":"%{i}%{pattern}"}}}}"#),
                1 => format!(r#""where":{{"id":{{"_gt":{i}}}}},"limit":{}"#, 1 + i % 100),
                _ => format!(r#""where":{{"id":{{"_in":[{i},{}]}}}},"columns":["id"]"#, i + 1),
            };
            client.send(format!(r#"{{"op":"subscribe","id":"{i}","projection":"keyed",{what}}}"#)).await;
            let is_held = loop {
                let message = client.next().await;
                if message.contains(r#""last":true"#) {
                    break true;
                }
                if message.contains(r#""op":"error""#) {
                    assert!(message.contains(code), "{message}");
                    break false;
                }
            };
            held += usize::from(is_held);
        }
        assert!((50..=100).contains(&held), "{held}");
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{} MB", grown >> 20);
}

/// Requests without end whose answers nobody reads: when some answers wait, no more is heard. What the client
/// goes on sending is the kernel's, which has a bound.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn who_asks_without_end_is_not_heard() {
    if !is_alone("who_asks_without_end_is_not_heard") {
        return;
    }
    let options = ServeOptions { messages_burst: u32::MAX, ..ServeOptions::default() };
    let served = Served::start(ample_hub(), options).await;
    let (mut socket, _) = raw_socket(&served, "").await;
    let before = resident_bytes();
    let unknown = format!(r#"{{"op":"subscribe","id":"{}","projection":"none"}}"#, "x".repeat(60));
    let taken = flood(&mut socket, &text_frame(&unknown), 64 << 20).await;
    let grown = resident_bytes().saturating_sub(before);
    assert!(taken < 48 << 20, "{} MB were taken", taken >> 20);
    assert!(grown < 4 << 20, "{} KB", grown >> 10);
    let heard = served.metric("messages_received_total", |_| true).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(served.metric("messages_received_total", |_| true).await, heard, "nothing more is heard");
}

/// Even where any number of pings is allowed: who reads no answers costs the memory of a few.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn pings_without_end_stay_flat() {
    if !is_alone("pings_without_end_stay_flat") {
        return;
    }
    let options = ServeOptions { messages_burst: u32::MAX, ..ServeOptions::default() };
    let served = Served::start(ample_hub(), options).await;
    let (mut socket, _) = raw_socket(&served, "").await;
    let before = resident_bytes();
    let ping = client_frame(0x89, &[b'x'; 125], [1, 2, 3, 4]);
    let taken = flood(&mut socket, &ping, 32 << 20).await;
    let grown = resident_bytes().saturating_sub(before);
    assert!(taken >= 32 << 20, "{taken} bytes of pings were taken");
    assert!(grown < 8 << 20, "{} KB for {} MB of pings", grown >> 10, taken >> 20);
    let mut other = Client::connect(&served).await;
    assert!(other.ask(r#"{"op":"ping"}"#).await.contains("heartbeat"));
}

/// What follows a violation is thrown away, and not for long.
#[tokio::test]
async fn what_follows_a_violation_is_not_read() {
    let served = Served::start(ample_hub(), ServeOptions::default()).await;
    let (mut socket, _) = raw_socket(&served, "").await;
    socket.write_all(&[&[0x81, 0x02, b'{', b'}'], &*text_frame(SUBSCRIBE)].concat()).await.expect("sent");
    socket.write_all(&text_frame(SUBSCRIBE)).await.expect("sent");
    assert_eq!(close_code(&mut socket).await, 1002);
    let started = Instant::now();
    let taken = flood(&mut socket, &text_frame(SUBSCRIBE), 1 << 30).await;
    assert!(taken < 64 << 20 && started.elapsed() < PATIENCE, "{taken} bytes, {:?}", started.elapsed());
    served.metric("sessions", |sessions| sessions == 0).await;
    served.metric("messages_received_total", |messages| messages == 0).await;
}

/// A message that is too long is refused when it says how long it is, or at the fragment that makes it
/// so, or when it has inflated to the limit.
#[tokio::test]
async fn what_is_too_long_is_refused_early() {
    let served = Served::start(ample_hub(), ServeOptions::default()).await;
    let (mut announced, _) = raw_socket(&served, "").await;
    announced.write_all(&[0x81, 0xFF, 0, 0, 0, 0, 0x06, 0x40, 0, 0]).await.expect("sent");
    assert_eq!(close_code(&mut announced).await, 1009, "100 MB, of which nothing was sent");
    let (mut cut, _) = raw_socket(&served, "").await;
    cut.write_all(&client_frame(0x01, &[b'x'; 1000], [0; 4])).await.expect("sent");
    cut.write_all(&client_frame(0x00, &[b'x'; 1000], [0; 4]).repeat(65)).await.expect("sent");
    assert_eq!(close_code(&mut cut).await, 1009);
    let (mut bomb, head) = raw_socket(&served, "Sec-WebSocket-Extensions: permessage-deflate\r\n").await;
    assert!(head.contains("sec-websocket-extensions: permessage-deflate; server_no_context_takeover"), "{head}");
    let mut payload = Vec::new();
    assert!(deflate(&vec![b' '; 5 << 20], &mut payload) && payload.len() < 64 * 1024, "{}", payload.len());
    bomb.write_all(&client_frame(0xC1, &payload, [1, 2, 3, 4])).await.expect("sent");
    assert_eq!(close_code(&mut bomb).await, 1009);
}

/// Connections come and go, in order and in disorder, and leave nothing.
#[tokio::test]
async fn coming_and_going_leaves_nothing() {
    let options = ServeOptions { connections_max: 20, ..ServeOptions::default() };
    let served = Served::start(ample_hub(), options).await;
    for round in 0..500 {
        let Ok(mut socket) = TcpStream::connect(served.address).await else { continue };
        let handshake = handshake("");
        // Some go before they have said what they want, some in the middle of it, some with a reset.
        let said = [0, 10, handshake.len(), handshake.len()][round % 4];
        let _ = socket.write_all(&handshake.as_bytes()[..said]).await;
        if round % 4 == 3 {
            let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        }
    }
    served.metric("sessions", |sessions| sessions == 0).await;
    let mut clients = Vec::new();
    let all = async {
        while clients.len() < 20 {
            clients.extend(Client::try_connect(&served).await);
        }
    };
    timeout(PATIENCE, all).await.expect("all of the slots are free again");
}

/// Requests one behind the other whose answers nobody reads: hyper stops reading when answers wait,
/// and the connection ends when they have waited for too long. It was held for good.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn who_asks_and_does_not_read_is_dropped() {
    if !is_alone("who_asks_and_does_not_read_is_dropped") {
        return;
    }
    let options =
        ServeOptions { write_timeout: Duration::from_millis(500), connections_max: 20, ..ServeOptions::default() };
    let served = Served::start(large_hub(16), options).await;
    let before = resident_bytes();
    let request = b"GET /v1/projections/keyed HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut silent = Vec::new();
    for _ in 0..19 {
        let mut socket = TcpStream::connect(served.address).await.expect("a connection");
        assert!(flood(&mut socket, request, 60_000).await > 0);
        silent.push(socket);
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MB for answers that nobody reads", grown >> 20);
    let mut clients = Vec::new();
    let all = async {
        while clients.len() < 20 {
            sleep(Duration::from_millis(5)).await;
            clients.extend(Client::try_connect(&served).await);
        }
    };
    timeout(PATIENCE, all).await.expect("their slots are free again");
}

/// A head that comes a byte at a time has the time that any head has.
#[tokio::test]
async fn who_asks_a_byte_at_a_time_is_dropped() {
    let options = ServeOptions { handshake_timeout: Duration::from_millis(300), ..ServeOptions::default() };
    let served = Served::start(ample_hub(), options).await;
    let mut socket = TcpStream::connect(served.address).await.expect("a connection");
    let started = Instant::now();
    let (mut receiving, mut sending) = socket.split();
    let talking = async {
        for byte in handshake("").as_bytes() {
            if sending.write_all(&[*byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let ended = async { while receiving.read(&mut [0; 100]).await.is_ok_and(|read| read > 0) {} };
    tokio::select! {
        () = talking => panic!("it was heard out"),
        () = ended => {}
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    // And one that says nothing at all.
    let mut silent = TcpStream::connect(served.address).await.expect("a connection");
    assert_eq!(timeout(PATIENCE, silent.read(&mut [0; 100])).await.expect("an end in time").expect("no error"), 0);
}

/// A session that wants nothing does not stay; one that subscribed may be silent for ever.
#[tokio::test]
async fn who_wants_nothing_is_sent_away() {
    let options = ServeOptions {
        idle_timeout: Duration::from_millis(400),
        heartbeat: Duration::from_millis(100),
        ..ServeOptions::default()
    };
    let served = Served::start(ample_hub(), options).await;
    let mut wanting = Client::connect(&served).await;
    drop(wanting.ask(SUBSCRIBE).await);
    let mut idle = Client::connect(&served).await;
    sleep(Duration::from_millis(250)).await;
    assert!(idle.ask(r#"{"op":"ping"}"#).await.contains("heartbeat"));
    let asked = Instant::now();
    assert_eq!(idle.closed().await, (4000, "nothing was subscribed to for too long".to_owned()));
    assert!(asked.elapsed() >= Duration::from_millis(390), "{:?} after it last said something", asked.elapsed());
    for _ in 0..8 {
        assert!(wanting.next().await.contains("heartbeat"));
    }
}

/// Those who can inflate are sent what is worth it compressed, each message by itself; the others, and
/// what is short, plain.
#[tokio::test]
async fn who_can_inflate_is_sent_less() {
    let served = Served::start(ample_hub(), ServeOptions::default()).await;
    let rows: String = (0..5).map(|id| format!("+keyed({id},{}) ", format!("customer-{id}-").repeat(20))).collect();
    publish(&served.hub, 1, &rows);
    let (mut small, _) = raw_socket(&served, "Sec-WebSocket-Extensions: permessage-deflate\r\n").await;
    let (mut plain, head) = raw_socket(&served, "").await;
    assert!(!head.contains("extensions"), "{head}");
    let mut images = Vec::new();
    for socket in [&mut small, &mut plain] {
        socket.write_all(&text_frame(SUBSCRIBE)).await.expect("sent");
        assert_eq!(next_frame(socket).await.0, 0x81, "the greeting is short");
        images.push(next_frame(socket).await);
    }
    assert_eq!((images[0].0, images[1].0), (0xC1, 0x81));
    assert!(images[0].1.len() * 2 < images[1].1.len(), "{} of {}", images[0].1.len(), images[1].1.len());
    assert_eq!(inflate(&images[0].1, 1 << 20).as_ref(), Ok(&images[1].1));
    // What it sends may be compressed too.
    let mut ping = Vec::new();
    let _ = deflate(br#"{"op":"ping"}"#, &mut ping);
    small.write_all(&client_frame(0xC1, &ping, [1, 2, 3, 4])).await.expect("sent");
    assert!(next_frame(&mut small).await.1.starts_with(br#"{"op":"heartbeat""#));
}

/// What a connection costs that waits: 760 bytes are tokio's for the task and the socket, the rest is
/// ours.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_idle_connection_costs_little() {
    use std::io::{Read as _, Write as _};

    if !is_alone("an_idle_connection_costs_little") {
        return;
    }
    const CONNECTIONS: usize = 2000;
    let served = Served::start(ample_hub(), ServeOptions::default()).await;
    let address = served.address;
    // Clients of the kernel alone: what this process holds is the server's.
    let connect = move |count: usize, says: Vec<u8>, hears: &'static [u8]| {
        let connect = move |_| {
            let mut socket = std::net::TcpStream::connect(address).expect("a connection");
            socket.write_all(&[handshake("").as_bytes(), &says].concat()).expect("sent");
            let (mut bytes, mut told) = ([0; 1000], Vec::new());
            while !told.ends_with(hears) {
                let read = socket.read(&mut bytes).expect("an answer");
                told.extend_from_slice(&bytes[..read]);
            }
            socket
        };
        tokio::task::spawn_blocking(move || (0..count).map(connect).collect::<Vec<_>>())
    };
    let greeted = br#""message_bytes_max":65536}"#;
    let _warm = connect(300, Vec::new(), greeted).await.expect("no panic");
    let before = resident_bytes();
    let _greeted = connect(CONNECTIONS, Vec::new(), greeted).await.expect("no panic");
    let idle = resident_bytes().saturating_sub(before) / CONNECTIONS;
    let _subscribed = connect(CONNECTIONS, text_frame(SUBSCRIBE), br#""last":true}"#).await.expect("no panic");
    let subscribed = (resident_bytes().saturating_sub(before) - CONNECTIONS * idle) / CONNECTIONS;
    println!("figure idle_connection_bytes {idle} bytes");
    println!("figure idle_subscribed_connection_bytes {subscribed} bytes");
    assert!(idle <= 2048, "{idle} bytes for an idle connection");
    // A subscription is a map's node, in the session.
    assert!(subscribed <= 2560, "{subscribed} bytes for one that has subscribed");
}
