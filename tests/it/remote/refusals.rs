//! Strangers, other versions, and what is not there.

use std::io::{Read, Write};

use actix::{Actor, Context, Handler, Message};
use proscenium::{
    CallError, ConnectError, Environment, InputError, JobRegistry, Key, Limits, MessageTable, Node, NodeError,
    OutputError, RemoteEnvironment, Service, ServiceRef, SubmitError, job_fn, jobs,
};
use serde::{Deserialize, Serialize};

use super::{Everything, connect, node};
use crate::support::{Answer, Echo, Increment, Journal, block_on, deadline, job};

/// What the node was built with.
mod there {
    use super::*;

    #[derive(Debug, Message, Serialize, Deserialize)]
    #[rtype(result = "u64")]
    pub struct Weigh {
        pub grams: u64,
    }

    #[derive(Debug, Message, Serialize, Deserialize)]
    #[rtype(result = "u64")]
    pub struct Count(pub u8);

    #[derive(Debug)]
    pub struct Scales;

    impl Actor for Scales {
        type Context = Context<Self>;
    }

    impl Service for Scales {
        fn messages(table: &mut MessageTable<Self>) {
            table.accept::<Weigh>("weigh").accept::<Count>("count");
        }
    }

    impl Handler<Weigh> for Scales {
        type Result = u64;

        fn handle(&mut self, weigh: Weigh, _: &mut Self::Context) -> u64 {
            weigh.grams
        }
    }

    impl Handler<Count> for Scales {
        type Result = u64;

        fn handle(&mut self, Count(n): Count, _: &mut Self::Context) -> u64 {
            n.into()
        }
    }

    job!(Weighing { grams: u64 }, |job, flow| {
        flow.register_service("scales", || Scales);
        flow.from_batch([job.grams]).collect("grams");
    });

    #[derive(Serialize, Deserialize)]
    pub struct Versioned;

    impl proscenium::Job for Versioned {
        const NAME: &'static str = "Versioned";
        const VERSION: u32 = 2;

        fn build(&self, _: &mut proscenium::Flow) -> Result<(), proscenium::BuildError> {
            Ok(())
        }
    }

    impl Weighing {
        pub fn of(grams: u64) -> Self {
            Self { grams }
        }
    }
}

/// What the client was built with.
mod here {
    use super::*;

    #[derive(Debug, Message, Serialize, Deserialize)]
    #[rtype(result = "u64")]
    pub struct Weigh {
        pub pounds: u64,
    }

    #[derive(Debug, Message, Serialize, Deserialize)]
    #[rtype(result = "String")]
    pub struct Count(pub u8);

    #[derive(Debug)]
    pub struct Scales;

    impl Actor for Scales {
        type Context = Context<Self>;
    }

    impl Service for Scales {
        fn messages(table: &mut MessageTable<Self>) {
            table.accept::<Weigh>("weigh").accept::<Count>("count").accept::<Increment>("increment");
        }
    }

    impl Handler<Weigh> for Scales {
        type Result = u64;

        fn handle(&mut self, weigh: Weigh, _: &mut Self::Context) -> u64 {
            weigh.pounds
        }
    }

    impl Handler<Count> for Scales {
        type Result = String;

        fn handle(&mut self, Count(n): Count, _: &mut Self::Context) -> String {
            n.to_string()
        }
    }

    impl Handler<Increment> for Scales {
        type Result = u64;

        fn handle(&mut self, _: Increment, _: &mut Self::Context) -> u64 {
            0
        }
    }

    job!(Weighing { pounds: u64 }, |job, flow| {
        flow.from_batch([job.pounds]).collect("grams");
    });

    job!(Versioned2 {}, |job, _flow| {});

    #[derive(Serialize, Deserialize)]
    pub struct Versioned;

    impl proscenium::Job for Versioned {
        const NAME: &'static str = "Versioned";

        fn build(&self, _: &mut proscenium::Flow) -> Result<(), proscenium::BuildError> {
            Ok(())
        }
    }

    pub fn weighing(pounds: u64) -> Weighing {
        Weighing { pounds }
    }

    pub fn unknown() -> Versioned2 {
        Versioned2 {}
    }
}

pub fn jobs() -> JobRegistry {
    jobs![there::Weighing, there::Versioned]
}

#[test]
fn who_has_another_key_is_refused_with_what_to_do() {
    let (node, address, _) = node(Limits::default());
    block_on(async {
        let connect = RemoteEnvironment::connect("test", address.to_string()).key(Key::generate());
        let error = deadline("the refusal", connect).await.unwrap_err();
        let ConnectError::Refused { message, .. } = &error else { panic!("{error:?}") };
        // Not the node's own key, which may do everything.
        assert!(message.contains("`key add`") && message.contains("PROSCENIUM_KEY"), "{message}");
        let no_key = RemoteEnvironment::connect("test", address.to_string()).key_file("/nowhere/key");
        let error = deadline("the refusal", no_key).await.unwrap_err();
        assert!(matches!(error, ConnectError::Key(_)), "{error:?}");
    });
    drop(node);
}

#[test]
fn a_stranger_is_told_what_this_is_and_keeps_nobody_out() {
    let (node, address, key) = node(Limits::default());
    let mut stranger = std::net::TcpStream::connect(address).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stranger.read_to_end(&mut answer).unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("this is a proscenium node"), "{answer:?}");
    // Connections that say nothing, and more of them than are kept.
    let silent: Vec<_> = (0..300).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let env = connect(address, &key);
    assert!(env.blocking().health().unwrap().accepting);
    env.blocking().close();
    drop(silent);
    drop(node);
}

#[test]
fn beyond_this_machine_nothing_goes_in_the_clear() {
    let open = || Node::builder().key(Key::generate()).address("0.0.0.0:0").open();
    #[cfg(feature = "tls")]
    drop(open().unwrap());
    #[cfg(not(feature = "tls"))]
    {
        let error = open().unwrap_err();
        assert!(matches!(error, NodeError::Exposed { .. }) && error.to_string().contains("feature `tls`"), "{error}");
        let connect = RemoteEnvironment::connect("test", "192.0.2.1:19001").key(Key::generate());
        let error = connect.blocking().unwrap_err();
        assert!(matches!(error, ConnectError::Exposed { .. }), "{error:?}");
        // Nor is what one side needs left out because the other cannot.
        let (node, address, key) = node(Limits::default());
        let connect = RemoteEnvironment::connect("test", address.to_string()).key(key).encrypted(true);
        let error = connect.blocking().unwrap_err();
        assert!(
            matches!(&error, ConnectError::Refused { message, .. } if message.contains("feature `tls`")),
            "{error}"
        );
        drop(node);
        let error = Node::builder().key(Key::generate()).address("127.0.0.1:0").encrypted(true).open().unwrap_err();
        assert!(matches!(error, NodeError::NoEncryption), "{error:?}");
    }
}

#[test]
fn an_address_that_means_nothing_is_refused_and_a_port_that_is_missing_is_the_default_one() {
    let connect = |address: &str| RemoteEnvironment::connect("test", address).key(Key::generate()).blocking();
    for address in ["", "node:", "node:http", ":19001", "http://node:1", "[::1]1"] {
        let error = connect(address).unwrap_err();
        assert!(matches!(error, ConnectError::Address { .. }), "{error:?}");
        assert!(error.to_string().contains("HOST:PORT"), "{error}");
    }
    // Reserved: there is no such host.
    for (address, in_full) in [("node.invalid", "node.invalid:19001"), ("node.invalid:7", "node.invalid:7")] {
        let error = connect(address).unwrap_err();
        assert!(matches!(&error, ConnectError::Unreachable { address, .. } if address == in_full), "{error:?}");
    }
}

/// What older versions say first, recorded from a client of version 1: magic, version, codec, no capabilities, number and
/// nonce. From version 2 on the id of a key follows.
fn hello_of_version(version: u8) -> Vec<u8> {
    let hello = [b"PROSCNM\n", &[version][..], b"\x00\x01\x00\x00\x00\x00\x00", &[7; 16], &[9; 32]].concat();
    if version == 1 { hello } else { [&hello[..], &[5; 16]].concat() }
}

/// What a node of version 1 answers a client of version 2, recorded.
const ANSWER_OF_VERSION_1: &[u8] =
    b"\x02\x5f\x00the peer speaks version 1 of the protocol and this side version 2: use the same release on both";

#[test]
fn peers_of_the_version_before_are_told_at_once_which_versions_differ_in_either_direction() {
    let (node, address, key) = node(Limits::default());
    for version in [1, 2, 3] {
        let begun = std::time::Instant::now();
        let mut client = std::net::TcpStream::connect(address).unwrap();
        client.write_all(&hello_of_version(version)).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        let text = format!(
            "the peer speaks version 5 of the protocol and this side version {version}: use the same release on both"
        );
        assert_eq!(answer, [&[2, text.len() as u8, 0], text.as_bytes()].concat());
        assert!(begun.elapsed() < std::time::Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    drop(node);

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let old = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // As much as version 1 reads; it then waits for what else comes, and closes.
        stream.read_exact(&mut [0; 64]).unwrap();
        stream.write_all(ANSWER_OF_VERSION_1).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let begun = std::time::Instant::now();
    let error = RemoteEnvironment::connect("test", old.to_string()).key(key).blocking().unwrap_err();
    let ConnectError::Refused { message, .. } = &error else { panic!("{error:?}") };
    assert!(message.contains("speaks version 1 of the protocol and this side version 2"), "{message}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(1), "{:?}", begun.elapsed());
    serving.join().unwrap();
}

#[test]
fn a_job_that_the_node_does_not_have_is_refused_and_says_what_to_do() {
    let (node, address, key) = node(Limits::default());
    block_on(async {
        let env = connect(address, &key);
        let error = env.submit(job_fn("adhoc", |_| Ok(()))).await.unwrap_err();
        assert_eq!(error, SubmitError::Closure { job: "adhoc".to_owned() });
        assert!(error.to_string().contains("jobs![..]"), "{error}");
        let error = env.submit(here::unknown()).await.unwrap_err();
        let SubmitError::UnknownJob { job, known } = &error else { panic!("{error:?}") };
        assert!(job == "Versioned2" && known.contains(&"Weighing".to_owned()), "{error}");
        assert_eq!(env.jobs().await.unwrap(), []);
        env.close().await;
    });
    drop(node);
}

#[test]
fn types_that_differ_are_named_with_their_difference() {
    let (node, address, key) = node(Limits::default());
    block_on(async {
        let env = connect(address, &key);
        let error = env.submit(here::weighing(1)).await.unwrap_err();
        let difference = "field `pounds` of `Weighing` exists here and not there".to_owned();
        assert_eq!(error, SubmitError::TypeDiffers { job: "Weighing".to_owned(), difference });
        let error = env.submit(here::Versioned).await.unwrap_err();
        assert_eq!(error, SubmitError::VersionDiffers { job: "Versioned".to_owned(), here: 1, there: 2 });

        let job = env.submit(there::Weighing::of(5)).await.unwrap();
        let scales: ServiceRef<here::Scales> = job.service("scales");
        let (service, message) = ("scales".to_owned(), "weigh".to_owned());
        let error = scales.call(here::Weigh { pounds: 1 }).await.unwrap_err();
        let difference = "field `pounds` of `Weigh` exists here and not there".to_owned();
        assert_eq!(error, CallError::TypeDiffers { service, message, difference });
        assert_eq!(scales.tell(here::Weigh { pounds: 1 }).await.unwrap_err(), error);
        let error = scales.call(here::Count(1)).await.unwrap_err();
        let CallError::TypeDiffers { difference, .. } = &error else { panic!("{error:?}") };
        assert_eq!(difference, "in its reply, the type is string here and u64 there");
        // The node does not offer it, whatever this side's table says.
        let error = scales.call(Increment).await.unwrap_err();
        let CallError::NotAccepted { message, accepted, .. } = &error else { panic!("{error:?}") };
        assert_eq!((message.as_str(), accepted.len()), ("increment", 2));
        let same: ServiceRef<there::Scales> = job.service("scales");
        assert_eq!(same.call(there::Weigh { grams: 3 }).await.unwrap(), 3);

        let error = job.output::<String>("grams").await.unwrap_err();
        let OutputError::WrongType { expected, found, .. } = &error else { panic!("{error:?}") };
        assert_eq!((expected.as_str(), found.as_str()), ("string", "u64"));
        job.stop().await.unwrap();
        env.close().await;
    });
    drop(node);
}

#[test]
fn names_that_do_not_exist_are_refused_with_those_that_do() {
    let (node, address, key) = node(Limits::default());
    block_on(async {
        let (env, journal) = (connect(address, &key), Journal::new());
        let job = env.submit(Everything { pen: journal.pen() }).await.unwrap();
        let error = job.service::<Echo>("nobody").call(Answer(1)).await.unwrap_err();
        let existing = vec!["counter".to_owned(), "echo".to_owned()];
        assert_eq!(error, CallError::NoSuchService { service: "nobody".to_owned(), existing });
        let error = job.service::<Echo>("counter").call(Answer(1)).await.unwrap_err();
        assert!(
            matches!(&error, CallError::WrongService { registered, .. } if registered.ends_with("Counter")),
            "{error}"
        );
        let error = job.output::<u64>("nothing").await.unwrap_err();
        assert!(matches!(&error, OutputError::NoSuchOutput { existing, .. } if existing.len() == 2), "{error}");
        let error = job.input::<u64>("nothing").send(1).await.unwrap_err();
        assert!(matches!(error.error(), InputError::NoSuchInput { .. }), "{error:?}");
        let error = job.input::<String>("numbers").finish().await.unwrap_err();
        assert!(matches!(&error, InputError::WrongType { .. }), "{error:?}");
        job.cancel().await.unwrap();
        env.close().await;
    });
    drop(node);
}

#[test]
fn two_job_types_of_one_name_do_not_make_a_node() {
    let node = Node::builder().jobs(jobs![there::Weighing, here::Weighing]).without_listener().key(Key::generate());
    let error = node.open().unwrap_err();
    assert!(matches!(error, NodeError::DuplicateJob { name: "Weighing" }), "{error:?}");
}
