//! Who is connected: how many in all, and from each address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, timeout};

/// Counts connections.
pub struct Peers {
    all: Arc<Semaphore>,
    all_max: u32,
    /// Not of this machine's, where a proxy may speak for all.
    per_address_max: usize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection's place; given back when it is dropped.
pub struct Slot {
    peers: Arc<Peers>,
    address: IpAddr,
    _of_all: OwnedSemaphorePermit,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There are as many connections as the server takes.
    All,
    /// There are as many of this address as the server takes.
    Address,
}

impl Peers {
    pub fn new(all_max: usize, per_address_max: usize) -> Arc<Peers> {
        let all_max = u32::try_from(all_max.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let all = Arc::new(Semaphore::new(all_max as usize));
        Arc::new(Peers { all, all_max, per_address_max, by_address: Mutex::default() })
    }

    /// A place for one more.
    pub fn admit(self: &Arc<Peers>, address: IpAddr) -> Result<Slot, Full> {
        let of_all = Arc::clone(&self.all).try_acquire_owned().map_err(|_| Full::All)?;
        let address = subnet(address);
        let max = if address.is_loopback() { usize::MAX } else { self.per_address_max };
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(address).or_default();
        if *count >= max {
            if *count == 0 {
                by_address.remove(&address);
            }
            return Err(Full::Address);
        }
        *count += 1;
        drop(by_address);
        Ok(Slot { peers: Arc::clone(self), address, _of_all: of_all })
    }

    /// Waits until every slot has been given back, and no longer than this.
    pub async fn gone(&self, within: Duration) {
        drop(timeout(within, self.all.acquire_many(self.all_max)).await);
    }
}

impl Slot {
    /// A place for another session of the same connection.
    pub fn another(&self) -> Result<Slot, Full> {
        self.peers.admit(self.address)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut by_address = self.peers.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// What counts as one address: of IPv6 the network, since whoever has one has all of its addresses.
fn subnet(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(address: &str) -> IpAddr {
        address.parse().expect("an address")
    }

    /// How many of 1500 connections from this address find a place.
    fn admitted(peers: &Arc<Peers>, address: &str) -> usize {
        let slots: Vec<Slot> = (0..1500).filter_map(|_| peers.admit(ip(address)).ok()).collect();
        slots.len()
    }

    #[test]
    fn an_address_has_its_share() {
        let peers = Peers::new(1200, 1000);
        assert_eq!(admitted(&peers, "10.0.0.1"), 1000);
        assert_eq!(admitted(&peers, "127.0.0.1"), 1200, "a proxy on this machine");
        assert_eq!(admitted(&peers, "::1"), 1200);
        assert_eq!(admitted(&peers, "::ffff:127.0.0.1"), 1200);
        assert_eq!(admitted(&Peers::new(1200, 0), "127.0.0.1"), 1200, "whatever the operator says");
        assert_eq!(admitted(&Peers::new(1200, 0), "10.0.0.1"), 0);
        assert!(peers.by_address.lock().expect("no panic").is_empty(), "nothing is kept of who has gone");
    }

    #[test]
    fn addresses_do_not_take_each_others_places() {
        let peers = Peers::new(4, 2);
        let admit = |address| peers.admit(ip(address));
        let first = admit("10.0.0.1").expect("a place");
        let _second = admit("10.0.0.1").expect("a place");
        assert_eq!(admit("10.0.0.1").err(), Some(Full::Address));
        assert_eq!(admit("::ffff:10.0.0.1").err(), Some(Full::Address), "the same in other words");
        let _third = admit("2001:db8::1").expect("a place");
        let _fourth = admit("2001:db8::2").expect("a place");
        assert_eq!(admit("2001:db8:0:1::1").err(), Some(Full::All));
        drop(first);
        assert_eq!(admit("2001:db8::3").err(), Some(Full::Address), "of the same network");
        assert!(admit("10.0.0.1").is_ok());
    }

    #[tokio::test]
    async fn who_waits_for_the_last_to_go() {
        let peers = Peers::new(4, 1000);
        let slot = peers.admit(ip("10.0.0.1")).expect("a place");
        let started = std::time::Instant::now();
        peers.gone(Duration::from_millis(50)).await;
        assert!(started.elapsed() >= Duration::from_millis(50));
        drop(slot);
        peers.gone(Duration::from_secs(3600)).await;
    }
}
