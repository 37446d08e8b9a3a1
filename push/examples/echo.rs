//! Sends back what it is sent: what the Autobahn test suite talks to, to see what the sockets of
//! `push::serve` make of the RFCs. `cargo xtask test autobahn` runs it.
//!
//! ```text
//! echo 127.0.0.1:9001
//! ```

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::header::SEC_WEBSOCKET_EXTENSIONS;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use push::ServeOptions;
use push::message::Message;
use push::serve::codec::{Opcode, frame};
use push::serve::handshake;
use push::serve::socket::{End, Outbox, Received, Socket, Talker};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let listener = TcpListener::bind(&address).await?;
    // As ours, but for what the suite needs: messages of 16 MiB, and many.
    let options = Arc::new(ServeOptions {
        message_bytes_max: 16 << 20,
        messages_burst: u32::MAX,
        close_timeout: Duration::from_secs(1),
        ..ServeOptions::default()
    });
    println!("listening on {address}");
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        let options = Arc::clone(&options);
        let service = service_fn(move |request| {
            let answer = answer(request, Arc::clone(&options));
            async move { Ok::<_, Infallible>(answer) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(tcp), service).with_upgrades());
    }
}

fn answer(mut request: Request<Incoming>, options: Arc<ServeOptions>) -> Response<Empty<Bytes>> {
    let Ok(response) = handshake::answer(request.headers(), false, options.compression) else {
        let mut refusal = Response::new(Empty::new());
        *refusal.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return refusal;
    };
    let deflates = response.headers().contains_key(SEC_WEBSOCKET_EXTENSIONS);
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        if let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() {
            let socket = Socket::new(parts.io.into_inner(), options, deflates);
            talk(socket, parts.read_buf.to_vec()).await;
        }
    });
    response.map(|()| Empty::new())
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(mut socket: Socket<S>, mut early: Vec<u8>) {
    let mut echo = Echo::default();
    let mut exchanged = socket.receive(&mut early, &mut echo);
    while exchanged.is_ok() {
        exchanged = poll_fn(|cx| socket.poll_exchange(cx, &mut echo)).await;
    }
    if let Some(time) = exchanged.err().and_then(|end| socket.close(end)) {
        let mut discarded = 0;
        let _ = timeout(time, poll_fn(|cx| socket.poll_closed(cx, &mut discarded))).await;
    }
}

/// What was heard and not said again.
#[derive(Default)]
struct Echo(VecDeque<Message>);

impl Talker for Echo {
    fn receive(&mut self, received: Received<'_>, outbox: &mut Outbox) -> Result<(), End> {
        match received {
            Received::Text(text) => self.0.push_back(Message::from(text.to_owned())),
            Received::Binary(bytes) => outbox.push_frame(frame(Opcode::Binary, bytes)),
        }
        Ok(())
    }

    fn next_message(&mut self) -> Option<Message> {
        self.0.pop_front()
    }

    fn has_next(&self) -> bool {
        !self.0.is_empty()
    }

    fn is_crowded(&self) -> bool {
        self.0.len() >= 4
    }
}
