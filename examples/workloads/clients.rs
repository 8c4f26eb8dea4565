//! What one more client costs a node: connecting, memory, and calls that are spread over all clients.
//!
//! Sizes are measured in turn. Each makes as many connections in all as the largest has clients, the smaller ones in several
//! repetitions, and as many calls, ten in flight at any time, each by the next client. So figures of different sizes differ
//! by what the number of clients does to them. All clients live in this process, where each has two threads; without huge
//! pages, for most of what is measured would else be the zeroing of 2 MiB for the heap of each thread.

use std::{error::Error, time::Instant};

use futures::{StreamExt, TryStreamExt, stream};
use proscenium::{JobId, RemoteEnvironment, ServiceRef};

use crate::{
    Place,
    measure::{footprint, median},
    services::{Counter, Counting, Footprint, Sum},
};

const SIZES: [u64; 3] = [10, 100, 1_000];

const ROUNDS: usize = 5;

const CALLS: u64 = 50_000;

const IN_FLIGHT: usize = 10;

/// A client of the node, and the service it calls.
struct Client {
    counter: ServiceRef<Counter>,
    /// Open for as long as it calls.
    _env: RemoteEnvironment,
}

/// Microseconds that one size took: each connection, each first call, each further call, and what of a further call this
/// process and that of the node worked.
#[derive(Default)]
struct Spent {
    connect: Vec<f64>,
    first_call: Vec<f64>,
    call: Vec<f64>,
    work_here: Vec<f64>,
    work_of_node: Vec<f64>,
}

impl Spent {
    fn medians(self) -> [f64; 5] {
        [self.connect, self.first_call, self.call, self.work_here, self.work_of_node].map(median)
    }
}

/// Measures so many clients, or several numbers of them beside each other.
pub(crate) fn clients(size: Option<u64>, place: &Place) -> Result<(), Box<dyn Error>> {
    many_descriptors();
    #[cfg(target_os = "linux")]
    rustix::thread::disable_transparent_huge_pages(true)?;
    let address = place.remote.as_deref().ok_or("`clients` needs `--remote`")?;
    let env = place.open()?;
    let job = env.submit(Counting).blocking()?;
    let sizes = size.map_or(SIZES.to_vec(), |size| vec![size.max(1)]);
    memory(address, job.id(), &sizes)?;
    let largest = sizes.iter().copied().max().unwrap_or(1);
    let mut spent: Vec<Spent> = sizes.iter().map(|_| Spent::default()).collect();
    for _ in 0..ROUNDS {
        for (size, spent) in sizes.iter().zip(&mut spent) {
            round(address, job.id(), *size, largest / size, spent)?;
        }
    }
    let mut first = None;
    for (size, spent) in sizes.iter().zip(spent) {
        let figures = spent.medians();
        let base = *first.get_or_insert(figures);
        print!("clients {size}");
        for (index, what) in ["connect", "first call", "call", "work here", "work of node"].into_iter().enumerate() {
            print!(" {what} {:.1}us ({:.2})", figures[index], figures[index] / base[index]);
        }
        println!(", in brackets beside the first");
    }
    job.blocking().stop()?;
    job.blocking().wait()?.into_result()?;
    Ok(())
}

fn connect(address: &str, job: JobId) -> Result<Client, Box<dyn Error>> {
    let env = RemoteEnvironment::connect("client", address).blocking()?;
    let counter = env.blocking().job(job)?.service("counter");
    Ok(Client { counter, _env: env })
}

/// What the node and this process grow by, in resident memory, while more and more clients connect and make a call.
fn memory(address: &str, job: JobId, sizes: &[u64]) -> Result<(), Box<dyn Error>> {
    let mut clients = vec![connect(address, job)?];
    let (node, here) = (clients[0].counter.call(Footprint).blocking()?.0, footprint()?.0);
    for size in sizes {
        while (clients.len() as u64) <= *size {
            let client = connect(address, job)?;
            client.counter.call(Sum).blocking()?;
            clients.push(client);
        }
        let grown = |now: u64, before: u64| now.saturating_sub(before) / size / 1024;
        let node = grown(clients[0].counter.call(Footprint).blocking()?.0, node);
        println!(
            "clients {size} memory: {node} KiB of the node, {} KiB of this process each",
            grown(footprint()?.0, here)
        );
    }
    Ok(())
}

/// Connects, calls and disconnects so many clients, several times.
fn round(address: &str, job: JobId, size: u64, times: u64, spent: &mut Spent) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let call_in_turn = |clients: &[Client], times: u64| -> Result<f64, Box<dyn Error>> {
        let start = Instant::now();
        let callers = (0..times).flat_map(|_| clients);
        let calling = stream::iter(callers).map(async |client| client.counter.call(Sum).await);
        runtime.block_on(calling.buffer_unordered(IN_FLIGHT).try_for_each(async |_| Ok(())))?;
        Ok(micros(start) / (clients.len() as u64 * times) as f64)
    };
    let calls_of_each = (CALLS / (size * times)).max(1);
    let (mut here, mut node) = (0, 0);
    for _ in 0..times {
        let mut clients = Vec::new();
        for _ in 0..size {
            let start = Instant::now();
            clients.push(connect(address, job)?);
            spent.connect.push(micros(start));
        }
        spent.first_call.push(call_in_turn(&clients, 1)?);
        let before = (footprint()?.1, clients[0].counter.call(Footprint).blocking()?.1);
        spent.call.push(call_in_turn(&clients, calls_of_each)?);
        here += footprint()?.1 - before.0;
        node += clients[0].counter.call(Footprint).blocking()?.1 - before.1;
    }
    let each = |nanoseconds: u64| nanoseconds as f64 / 1e3 / (calls_of_each * size * times) as f64;
    spent.work_here.push(each(here));
    spent.work_of_node.push(each(node));
    Ok(())
}

fn micros(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}

/// As many as the system allows this process: each client has a socket and more.
fn many_descriptors() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        // What is refused here shows when it is needed.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}
