//! A stretch of wire between a client and a node, which can be cut.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use parking_lot::Mutex;

/// Forwards connections to a node.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<SocketAddr>,
    /// What becomes of the next connections, in order; later ones are not cut.
    cuts: Mutex<VecDeque<Cut>>,
    alive: Mutex<Vec<TcpStream>>,
    connections: AtomicU64,
    /// To the node, and to the client.
    forwarded: [AtomicU64; 2],
    over: AtomicBool,
}

/// After how many bytes a connection is cut.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cut {
    pub to_node: Option<u64>,
    pub to_client: Option<u64>,
}

impl Proxy {
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            cuts: Mutex::default(),
            alive: Mutex::default(),
            connections: AtomicU64::new(0),
            forwarded: Default::default(),
            over: AtomicBool::new(false),
        });
        let forwarding = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if forwarding.over.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(client) = client {
                    forwarding.forward(client);
                }
            }
        });
        Self { address, shared }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on connections lead there.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.shared.target.lock() = target;
    }

    /// The next connections are cut so.
    pub fn cut_next(&self, cuts: impl IntoIterator<Item = Cut>) {
        self.shared.cuts.lock().extend(cuts);
    }

    /// Cuts all connections there are.
    pub fn cut(&self) {
        for stream in self.shared.alive.lock().drain(..) {
            // It may be cut already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Bytes so far to the node, and to the client.
    pub fn forwarded(&self) -> [u64; 2] {
        self.shared.forwarded.each_ref().map(|bytes| bytes.load(Ordering::SeqCst))
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the thread that waits for a connection.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn forward(self: &Arc<Self>, client: TcpStream) {
        let Ok(node) = TcpStream::connect(*self.target.lock()) else { return };
        self.connections.fetch_add(1, Ordering::SeqCst);
        let cut = self.cuts.lock().pop_front().unwrap_or_default();
        let both = |stream: &TcpStream| stream.try_clone().expect("a descriptor is free");
        self.alive.lock().extend([both(&client), both(&node)]);
        let ways = [(both(&client), both(&node), cut.to_node), (node, client, cut.to_client)];
        for (way, (from, to, limit)) in ways.into_iter().enumerate() {
            let shared = Arc::clone(self);
            thread::spawn(move || pump(from, to, limit.unwrap_or(u64::MAX), &shared.forwarded[way]));
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, mut left: u64, forwarded: &AtomicU64) {
    let mut bytes = vec![0; 64 << 10];
    let _ = to.set_nodelay(true);
    while let Ok(count) = from.read(&mut bytes) {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(count);
        left -= now as u64;
        forwarded.fetch_add(now as u64, Ordering::SeqCst);
        if to.write_all(&bytes[..now]).is_err() || now == 0 || left == 0 {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
