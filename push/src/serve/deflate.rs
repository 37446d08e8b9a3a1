//! permessage-deflate (RFC 7692), without context takeover.
//!
//! A message that is compressed by itself is the same bytes for every client, so it is compressed
//! once; and no connection keeps a window. Compressor and inflater are a thread's own, since what
//! they hold between two messages means nothing.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// What ends each message before it is sent without it (section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];
/// Bytes by which the room for an inflated message grows at least.
const STEP_BYTES: usize = 1024;

thread_local! {
    /// 300 KB, once a thread has compressed something.
    static COMPRESS: RefCell<Compress> = RefCell::new(Compress::new(Compression::new(LEVEL), false));
    /// 40 KB, once a thread has inflated something.
    static DECOMPRESS: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Of 1 to 9.
const LEVEL: u32 = 1;

/// What to answer to the extensions that a client offers (section 5); `None` when there is no offer
/// that we can take: then messages go uncompressed.
///
/// An offer with a window of ours smaller than 32 KB is passed over: what is shared by all can't be
/// made for one.
#[must_use]
pub fn agree<'a>(offers: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
    offers.into_iter().flat_map(|offers| offers.split(',')).find_map(agree_to)
}

fn agree_to(offer: &str) -> Option<&'static str> {
    let mut words = offer.split(';').map(str::trim);
    if !words.next()?.eq_ignore_ascii_case("permessage-deflate") {
        return None;
    }
    // Each parameter at most once (section 7.1), with a value that it may have.
    let mut seen: Vec<&str> = Vec::new();
    for word in words {
        let (name, value) =
            word.split_once('=').map_or((word, None), |(name, value)| (name.trim(), Some(value.trim())));
        let value =
            value.map(|value| value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value));
        let is_window = |value: &str| ["8", "9", "10", "11", "12", "13", "14", "15"].contains(&value);
        let is_fit = match name {
            "server_no_context_takeover" | "client_no_context_takeover" => value.is_none(),
            // The client's window may have any size: we can read what was made with a smaller one.
            "client_max_window_bits" => value.is_none_or(is_window),
            "server_max_window_bits" => value == Some("15"),
            _ => false,
        };
        if !is_fit || seen.contains(&name) {
            return None;
        }
        seen.push(name);
    }
    Some(if seen.contains(&"server_max_window_bits") {
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15"
    } else {
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    })
}

/// Appends a message's compressed payload to `out`. `false` when that would not be smaller than the
/// message; what is in `out` then is of no use.
pub fn deflate(message: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    COMPRESS.with_borrow_mut(|compress| {
        compress.reset();
        out.reserve(message.len() / 2 + STEP_BYTES);
        loop {
            let taken = compress.total_in() as usize;
            compress
                .compress_vec(&message[taken..], out, FlushCompress::Sync)
                .expect("compressing fails only when it is called wrongly");
            if out.len() < out.capacity() {
                break;
            }
            if out.len() - start >= message.len() + TAIL.len() {
                return false;
            }
            out.reserve(message.len() / 2 + STEP_BYTES);
        }
        debug_assert!(out.ends_with(&TAIL), "a flush ends with an empty block");
        out.truncate(out.len() - TAIL.len());
        out.len() - start < message.len()
    })
}

/// Why a message can't be inflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InflateError {
    /// It is not what a compressor makes.
    Broken,
    /// It is longer than allowed.
    TooLong,
}

/// The message of a compressed payload, of at most `bytes_max` bytes.
///
/// # Errors
/// When it would be longer, as soon as that is certain; or when the payload is broken.
pub fn inflate(payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, InflateError> {
    DECOMPRESS.with_borrow_mut(|decompress| {
        decompress.reset(false);
        let mut out = Vec::new();
        for mut input in [payload, &TAIL] {
            loop {
                // One byte more than allowed is room enough to see that it is too long.
                let room = (bytes_max + 1).saturating_sub(out.len()).min(out.len().max(STEP_BYTES));
                out.reserve_exact(room);
                let before = decompress.total_in();
                let status = decompress
                    .decompress_vec(input, &mut out, FlushDecompress::None)
                    .map_err(|_| InflateError::Broken)?;
                input = &input[(decompress.total_in() - before) as usize..];
                if out.len() > bytes_max {
                    return Err(InflateError::TooLong);
                }
                match status {
                    // A compressor may mark a block as the last, and the message goes on behind it
                    // (section 7.2.3.4).
                    Status::StreamEnd => {
                        decompress.reset(false);
                        if input.is_empty() {
                            break;
                        }
                    }
                    _ if out.len() == out.capacity() => {}
                    _ if input.is_empty() => break,
                    // Room and input are left, and it takes neither.
                    _ => return Err(InflateError::Broken),
                }
            }
        }
        Ok(out)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use expect_test::expect;

    #[test]
    fn offers_are_agreed_to_or_passed_over() {
        let shown: String = [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "Permessage-Deflate;client_max_window_bits=10;server_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; server_max_window_bits=15",
            "permessage-deflate; server_max_window_bits=\"15\"",
            "permessage-deflate; server_max_window_bits=10, permessage-deflate",
            "x-webkit-deflate-frame, permessage-deflate; client_max_window_bits = \"9\"",
            "permessage-deflate; server_max_window_bits=10",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=08",
            "permessage-deflate; client_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover=true",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; dictionary=x",
            "permessage-bzip2",
            "",
        ]
        .iter()
        .map(|offer| format!("{offer}\n    {}\n", agree([*offer]).unwrap_or("no")))
        .collect();
        expect![[r#"
            permessage-deflate
                permessage-deflate; server_no_context_takeover; client_no_context_takeover
            permessage-deflate; client_max_window_bits
                permessage-deflate; server_no_context_takeover; client_no_context_takeover
            Permessage-Deflate;client_max_window_bits=10;server_no_context_takeover; client_no_context_takeover
                permessage-deflate; server_no_context_takeover; client_no_context_takeover
            permessage-deflate; server_max_window_bits=15
                permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15
            permessage-deflate; server_max_window_bits="15"
                permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15
            permessage-deflate; server_max_window_bits=10, permessage-deflate
                permessage-deflate; server_no_context_takeover; client_no_context_takeover
            x-webkit-deflate-frame, permessage-deflate; client_max_window_bits = "9"
                permessage-deflate; server_no_context_takeover; client_no_context_takeover
            permessage-deflate; server_max_window_bits=10
                no
            permessage-deflate; server_max_window_bits
                no
            permessage-deflate; client_max_window_bits=16
                no
            permessage-deflate; client_max_window_bits=08
                no
            permessage-deflate; client_no_context_takeover=1
                no
            permessage-deflate; server_no_context_takeover=true
                no
            permessage-deflate; client_no_context_takeover; client_no_context_takeover
                no
            permessage-deflate; dictionary=x
                no
            permessage-bzip2
                no

                no
        "#]]
        .assert_eq(&shown);
        assert_eq!(agree(["x-frames", "permessage-deflate"]), agree(["permessage-deflate"]), "in several headers");
        assert_eq!(agree([]), None);
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(7);
        (0..bytes).map(|_| random.u8(..)).collect()
    }

    /// A JSON of so many rows.
    fn rows(count: usize) -> Vec<u8> {
        (0..count)
            .flat_map(|row| format!("[{row},\"customer {}\",\"{}.50\"],", row * 7 % 13, row * 31).into_bytes())
            .collect()
    }

    #[test]
    fn what_is_deflated_is_inflated() {
        for message in [rows(1), rows(10), rows(100), rows(10_000), vec![0; 1 << 20], b"x".repeat(1000)] {
            let mut payload = b"before".to_vec();
            let is_smaller = deflate(&message, &mut payload);
            assert_eq!(is_smaller, message.len() > 100, "{} bytes", message.len());
            if is_smaller {
                assert!(payload.starts_with(b"before") && payload.len() < message.len());
                assert_eq!(inflate(&payload[6..], message.len()).as_ref(), Ok(&message));
                assert_eq!(inflate(&payload[6..], message.len() - 1), Err(InflateError::TooLong));
            }
        }
    }

    /// Nothing of a message is needed to read the next: each begins anew, for every client.
    #[test]
    fn each_message_stands_alone() {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        assert!(deflate(&rows(50), &mut first) && deflate(&rows(50), &mut second));
        assert_eq!(first, second);
        assert_eq!(inflate(&noise(100), 1000), Err(InflateError::Broken));
        assert_eq!(inflate(&second, 10_000), Ok(rows(50)));
    }

    /// What gains nothing is left as it is, however long.
    #[test]
    fn noise_is_not_deflated() {
        for bytes in [0, 1, 100, 1000, 10_000, 1_000_000] {
            assert!(!deflate(&noise(bytes), &mut Vec::new()), "{bytes}");
        }
    }

    /// A last block, and no more; a last block after which the message goes on.
    #[test]
    fn a_block_may_be_the_last() {
        assert_eq!(inflate(&[0x03, 0x00, 0x00], 100), Ok(Vec::new()));
        let hello = [0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
        assert_eq!(inflate(&hello, 100), Ok(b"Hello".to_vec()));
        assert_eq!(inflate(&[hello, hello].concat(), 100), Ok(b"HelloHello".to_vec()));
    }
}
