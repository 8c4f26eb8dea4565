//! Jobs over workers whose connections to each other are cut, or change a bit, at any byte.

#![cfg(target_os = "linux")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use proscenium::{
    BuildRefusal, Environment, FailureCause, JobHandle, Key, KeyRole, Node, Outcome, OutputError, ParallelRange,
    RemoteEnvironment, SubmitError, Worker, Workers,
};

use crate::{
    leaks::child::is_long,
    support::{Answer, Cut, Echo, Flip, Proxy, block_on_for, deadline, job, read, registered, sorted},
};

registered![Crossing];

const ITEMS: u64 = 40;

/// For the long form.
const LIMIT: Duration = Duration::from_secs(3_600);

/// An address of this machine at which nobody listens.
const ELSEWHERE: &str = "127.0.0.9";

job!(
    /// A little of everything that goes from one worker to another.
    Crossing {}, |job, flow| {
        flow.register_service("echo", || Echo);
        let counts = flow.from_batch(ParallelRange::new(0..ITEMS)).key_by(|n| n % 7).parallelism(4).count();
        let asked = counts.map_async(4, async |ctx, (key, count)| {
            Ok((key, ctx.service::<Echo>("echo")?.call(Answer(count)).await?))
        });
        asked.rebalance(2).collect("out");
    }
);

fn expected() -> Vec<(u64, u64)> {
    (0..7).map(|key| (key, (0..ITEMS).filter(|n| n % 7 == key).count() as u64)).collect()
}

/// A node with two workers, the second of which is reached by way of a proxy: by the node, and by the first.
struct Apart {
    env: RemoteEnvironment,
    proxy: Proxy,
    _workers: [Worker; 2],
    _node: Node,
}

impl Apart {
    async fn open() -> Self {
        let node = Node::builder().jobs(crate::jobs()).address("127.0.0.1:0").key(Key::generate()).task_threads(1);
        let node = node.workers(Workers::joining()).open().expect("a node");
        let env = deadline("a client", node.connect("test")).await.expect("the node is there");
        let key = deadline("a key", env.add_key("workers", KeyRole::Worker)).await.expect("the client may do that");
        let worker = |name: &str| {
            let manager = node.address().expect("it listens").to_string();
            Worker::builder().jobs(crate::jobs()).manager(manager).key(key.clone()).name(name).slots(2)
        };
        let near = worker("near").open().expect("a worker");
        joined(&env, 1).await;
        // It says that it is at another address, with the port that it listens at, and there is the proxy.
        let far = worker("far").address("127.0.0.1:0").advertise(ELSEWHERE).open().expect("a worker");
        let port = far.data_address().strip_prefix(ELSEWHERE).expect("it was told so").trim_start_matches(':');
        let target = SocketAddr::from(([127, 0, 0, 1], port.parse().expect("it is a port")));
        let proxy = Proxy::between(far.data_address(), target);
        joined(&env, 2).await;
        Self { env, proxy, _workers: [near, far], _node: node }
    }

    /// Runs the job once; nothing that comes of it may be wrong.
    async fn run(&self, what: &str) -> End {
        let submitted = deadline(what, self.env.submit(Crossing {}).parallelism(4).autostop(true)).await;
        let job = match submitted {
            Ok(job) => job,
            Err(SubmitError::Build(BuildRefusal::WorkerLost { .. } | BuildRefusal::WorkersApart { .. })) => {
                return End::Refused;
            }
            Err(error) => panic!("{what}: {error:?}"),
        };
        let end = judge(what, &job).await;
        deadline("forgetting the job", job.delete()).await.expect("it has ended");
        end
    }
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Refused,
    Failed,
    Completed,
}

async fn joined(env: &RemoteEnvironment, count: usize) {
    let asking = async {
        while env.workers().await.expect("an open node").len() != count {
            tokio::task::yield_now().await;
        }
    };
    deadline("the workers", asking).await;
}

async fn judge(what: &str, job: &JobHandle) -> End {
    match deadline(what, job.wait()).await.expect("the node is there") {
        Outcome::Completed => {
            assert_eq!(sorted(read::<(u64, u64)>(job, "out").await), expected(), "{what}");
            End::Completed
        }
        Outcome::Failed(FailureCause::WorkerLost { .. }) => {
            let read = deadline(what, job.output::<(u64, u64)>("out")).await;
            assert!(matches!(read, Err(OutputError::Incomplete { .. })), "{what}: read as if whole: {read:?}");
            End::Failed
        }
        other => panic!("{what}: {other}"),
    }
}

/// Runs the job again and again, each time with another fault on one of the connections to the second worker: that of the
/// node's process, which is dialled first, or that of the first worker.
fn with_each(fault: impl Fn(usize, u64) -> Cut) {
    block_on_for(LIMIT, async {
        let apart = Apart::open().await;
        let before = apart.proxy.forwarded();
        assert_eq!(apart.run("the job left alone").await, End::Completed);
        assert_eq!(apart.proxy.connections(), 2, "the node's, and the first worker's");
        let after = apart.proxy.forwarded();
        let (mut ends, mut slowest) = ([0; 3], (Duration::ZERO, String::new()));
        for way in [0, 1] {
            // Of both connections together.
            let bytes = after[way] - before[way];
            for connection in [0, 1] {
                // All of the beginning, where the two get to know each other; and of the rest a sample, unless there is time.
                let mut at = 0;
                while at < bytes {
                    let cut = fault(way, at);
                    apart.proxy.spare_next();
                    apart.proxy.cut_next((0..connection).map(|_| Cut::default()).chain([cut]));
                    let (begun, what) = (Instant::now(), format!("connection {connection}: {cut:?}"));
                    ends[apart.run(&what).await as usize] += 1;
                    slowest = slowest.max((begun.elapsed(), what));
                    at += if is_long() { 1 } else { 1 + bytes / 40 };
                }
            }
        }
        apart.proxy.spare_next();
        assert_eq!(apart.run("the job after all that").await, End::Completed);
        println!("{ends:?} were refused, failed, completed; the slowest: {slowest:?}");
        assert!(ends[End::Failed as usize] > 0 && ends[End::Completed as usize] > 0, "{ends:?}");
        deadline("the end", apart.env.close()).await;
    });
}

#[test]
fn a_job_whose_workers_are_cut_apart_at_any_byte_fails_by_name_or_is_whole() {
    with_each(|way, at| {
        if way == 0 {
            Cut { to_node: Some(at), ..Cut::default() }
        } else {
            Cut { to_client: Some(at), ..Cut::default() }
        }
    });
}

#[test]
fn a_bit_that_is_changed_between_workers_fails_the_job_by_name_and_is_never_a_wrong_result() {
    with_each(|way, at| Cut { flip: Some(Flip { way, at, bit: (at % 8) as u8 }), ..Cut::default() });
}
