//! What the holders of a node's keys may do, and how keys come and go.

use std::{fmt::Debug, future::IntoFuture, time::Duration};

use proscenium::{
    CallError, ConnectError, Environment, JobHandle, Key, KeyInfo, KeyRingError, KeyRole, Limits, Node, NodeStop,
    Outcome, OutputError, QueryError, RemoteEnvironment, SubmitError,
};

use super::{Everything, connect, node};
use crate::support::{Answer, Echo, Journal, Proxy, block_on, deadline, ended};

/// How a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answered {
    Done,
    Forbidden,
    NoSuchJob,
}
use Answered::{Done, Forbidden, NoSuchJob};

/// How it was answered; `Err` says what else came. A refusal names the key, its role, and what it lacks.
fn answered<T, E: Debug + ToString>(result: Result<T, E>) -> Result<Answered, String> {
    let Err(error) = result else { return Ok(Done) };
    let (variant, sentence) = (format!("{error:?}"), error.to_string());
    let names_it = sentence.starts_with("the key `") && sentence.contains("` may not ") && sentence.contains(": a ");
    match variant.split_once(' ').map_or(&*variant, |(name, _)| name) {
        "Forbidden" if names_it => Ok(Forbidden),
        "NoSuchJob" => Ok(NoSuchJob),
        _ => Err(format!("{variant}: {sentence}")),
    }
}

/// Everything that can be asked about one job, and how it was answered. `admin` ends the job in any case.
async fn asked_about(job: &JobHandle, admin: &JobHandle) -> Vec<(&'static str, Result<Answered, String>)> {
    let echo = job.service::<Echo>("echo");
    let mut answers = vec![
        ("status", answered(job.status().await)),
        ("explain", answered(job.explain().await)),
        ("graph", answered(job.graph().await)),
        ("dead letters", answered(job.dead_letters().await)),
        ("call", answered(echo.call(Answer(1)).await)),
        ("tell", answered(echo.tell(Answer(1)).await)),
        ("input", {
            let sent = job.input::<u64>("numbers").send_all([1, 2]).await;
            answered(sent.map_err(|error| error.into_error()))
        }),
        ("pause", answered(job.pause().await)),
        ("resume", answered(job.resume().await)),
        ("stop", answered(job.stop().await)),
    ];
    // It may have been told already.
    let _ = admin.stop().await;
    let _ = ended(admin).await;
    answers.push(("wait", answered(job.wait().await)));
    answers.push(("collected output", answered(deadline("the items", job.output::<u64>("doubles")).await)));
    answers.push(("streamed output", answered(deadline("the items", job.output::<u64>("live")).await)));
    answers.push(("delete", answered(job.delete().await)));
    answers
}

/// A node, and clients with keys of every role.
struct Place {
    node: Node,
    admin: RemoteEnvironment,
    reader: RemoteEnvironment,
    submitter: RemoteEnvironment,
    other: RemoteEnvironment,
}

impl Place {
    fn new() -> Self {
        let (node, address, key) = node(Limits::default());
        let admin = connect(address, &key);
        let with = |name: &str, role| {
            let key = block_on(admin.add_key(name, role)).unwrap();
            assert_eq!((Key::parse(&key.reveal()).as_ref(), key.role()), (Ok(&key), role));
            connect(address, &key)
        };
        let reader = with("dashboard", KeyRole::Reader);
        let (submitter, other) = (with("etl", KeyRole::Submitter), with("etl-2", KeyRole::Submitter));
        Self { node, admin, reader, submitter, other }
    }

    fn close(self) {
        for env in [&self.admin, &self.reader, &self.submitter, &self.other] {
            env.blocking().close();
        }
        drop(self.node);
    }
}

#[test]
fn every_role_is_answered_every_request_as_the_table_says() {
    let place = Place::new();
    let journal = Journal::new();
    let submit = |env: &RemoteEnvironment| env.submit(Everything { pen: journal.pen() });
    block_on(async {
        for (who, env, own, others) in [
            ("admin", &place.admin, Done, Done),
            ("reader", &place.reader, Forbidden, Forbidden),
            ("submitter", &place.submitter, Done, NoSuchJob),
        ] {
            let submitted = submit(env).await;
            let id = submitted.as_ref().map(JobHandle::id).ok();
            assert_eq!(answered(submitted), Ok(own), "{who} submits");
            let mut jobs: Vec<_> = id.into_iter().map(|id| (id, own)).collect();
            jobs.push((submit(&place.admin).await.unwrap().id(), others));
            jobs.push((submit(&place.other).await.unwrap().id(), others));
            let seen = env.jobs().await.unwrap().len();
            assert_eq!(seen, if who == "submitter" { 1 } else { jobs.len() }, "{who} sees so many jobs");
            for (id, expected) in jobs {
                let (found, admin) = (env.job(id).await, place.admin.job(id).await.unwrap());
                if expected == NoSuchJob {
                    assert_eq!(answered(found), Ok(NoSuchJob), "{who} finds another's job");
                    admin.cancel().await.unwrap();
                    let _ = ended(&admin).await;
                } else {
                    for (request, answer) in asked_about(&found.unwrap(), &admin).await {
                        let looks = ["status", "explain", "graph", "dead letters", "wait", "collected output"];
                        let expected = if looks.contains(&request) { Done } else { expected };
                        assert_eq!(answer, Ok(expected), "{who}: {request}");
                    }
                }
            }
            let is_admin = if who == "admin" { Done } else { Forbidden };
            assert!(env.health().await.unwrap().accepting, "{who}");
            assert_eq!(answered(env.info().await), Ok(Done), "{who}");
            assert_eq!(answered(env.keys().await), Ok(is_admin), "{who} lists keys");
            assert_eq!(answered(env.add_key("more", KeyRole::Reader).await), Ok(is_admin), "{who} adds a key");
            assert_eq!(answered(env.revoke_key("more").await), Ok(is_admin), "{who} revokes a key");
            assert_eq!(answered(env.cleanup().await), Ok(is_admin), "{who} cleans up");
            place.admin.cleanup().await.unwrap();
            if who != "admin" {
                assert_eq!(answered(env.stop_node(NodeStop::Cancel).await), Ok(Forbidden), "{who} stops the node");
            }
        }
    });
    place.close();
}

#[test]
fn a_key_that_is_revoked_ends_its_sessions_and_opens_no_new_ones() {
    let place = Place::new();
    block_on(async {
        let journal = Journal::new();
        let job = place.submitter.submit(Everything { pen: journal.pen() }).await.unwrap();
        let lost = place.submitter.disconnected();
        place.admin.revoke_key("etl").await.unwrap();
        deadline("the end of its session", lost).await;
        let again = place.admin.revoke_key("etl").await;
        assert_eq!(again, Err(KeyRingError::NoSuchKey { name: "etl".to_owned() }));
        // What it had begun goes on, and the sessions of other keys do.
        let job = place.admin.job(job.id()).await.unwrap();
        assert!(job.status().await.unwrap().is_running());
        assert!(place.other.health().await.unwrap().accepting && place.reader.health().await.unwrap().accepting);
        job.cancel().await.unwrap();
        let taken = place.admin.add_key("dashboard", KeyRole::Submitter).await;
        assert_eq!(taken, Err(KeyRingError::Exists { name: "dashboard".to_owned() }));
        let names: Vec<KeyInfo> = place.admin.keys().await.unwrap();
        let names: Vec<(&str, KeyRole)> = names.iter().map(|key| (key.name.as_str(), key.role)).collect();
        assert_eq!(names, [("dashboard", KeyRole::Reader), ("etl-2", KeyRole::Submitter)]);
        for name in ["a b", "", "x:y"] {
            let refused = place.admin.add_key(name, KeyRole::Reader).await;
            assert!(matches!(refused, Err(KeyRingError::Refused { .. })), "{name:?}: {refused:?}");
        }
    });
    place.close();
}

/// A client whose key was revoked used to go on trying until its `reconnect_limit` was over, and to say then that the node
/// cannot be reached.
#[test]
fn a_client_whose_key_is_revoked_is_told_so_at_once_and_for_good() {
    let place = Place::new();
    block_on(async {
        let journal = Journal::new();
        let job = place.submitter.submit(Everything { pen: journal.pen() }).await.unwrap();
        let echo = job.service::<Echo>("echo");
        let wait = job.wait();
        let mut items = job.output::<u64>("live");
        place.admin.revoke_key("etl").await.unwrap();
        let message = "the key `etl` was revoked".to_owned();
        let forbidden = || QueryError::Forbidden { message: message.clone() };
        // Begun before it, during it and after it.
        assert_eq!(deadline("the wait's error", wait).await, Err(forbidden()));
        let read = deadline("the output's error", items.next()).await;
        assert_eq!(read, Err(OutputError::Forbidden { message: message.clone() }));
        assert_eq!(deadline("a question's error", place.submitter.health()).await, Err(forbidden()));
        let called = deadline("a call's error", echo.call(Answer(1))).await;
        assert_eq!(called, Err(CallError::Forbidden { message: message.clone() }));
        let refused =
            deadline("a submit's error", place.submitter.submit(Everything { pen: journal.pen() }).into_future());
        assert!(matches!(refused.await, Err(SubmitError::Forbidden { .. })));
        deadline("a loss that is past", place.submitter.disconnected()).await;
        deadline("the close", place.submitter.close()).await;
        assert_eq!(place.submitter.health().await, Err(QueryError::EnvironmentClosed));
        place.admin.job(job.id()).await.unwrap().cancel().await.unwrap();
    });
    place.close();
}

#[test]
fn a_reader_who_looks_at_a_job_does_not_keep_it() {
    let place = Place::new();
    let journal = Journal::new();
    block_on(async {
        let job = place.submitter.submit(Everything { pen: journal.pen() }).lease(Duration::from_millis(20));
        let job = job.await.unwrap();
        let seen = place.reader.job(job.id()).await.unwrap();
        assert_eq!((seen.id(), seen.status().await.unwrap().is_running()), (job.id(), true));
        drop(job);
        let outcome = ended(&seen).await;
        assert!(matches!(outcome, Outcome::Stopped | Outcome::Cancelled { .. }), "{outcome:?}");
    });
    place.close();
}

#[test]
fn other_keys_leave_a_connection_to_the_nodes_own() {
    let key = Key::generate();
    let node = Node::builder().address("127.0.0.1:0").key(key.clone()).connections_max(8).task_threads(1);
    let node = node.open().unwrap();
    let address = node.address().unwrap();
    let admin = connect(address, &key);
    let reader = block_on(admin.add_key("dashboard", KeyRole::Reader)).unwrap();
    let mut clients: Vec<_> = (0..6).map(|_| connect(address, &reader)).collect();
    let refused = RemoteEnvironment::connect("test", address.to_string()).key(reader).blocking();
    assert!(matches!(refused, Err(ConnectError::Unreachable { .. })), "{refused:?}");
    clients.extend([connect(address, &key), admin]);
    for client in clients {
        client.blocking().close();
    }
    drop(node);
}

#[test]
fn a_key_that_was_handed_out_is_for_its_node_alone_which_knows_it_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let open = || Node::builder().address("127.0.0.1:0").key_file(&file).task_threads(1).open().unwrap();
    let node = open();
    let admin = node.connect("admin").blocking().unwrap();
    let key = block_on(admin.add_key("dashboard", KeyRole::Reader)).unwrap();
    admin.blocking().close();
    drop(node);
    let node = open();
    let address = node.address().unwrap().to_string();
    // Encrypted, though it stays within this machine: nobody reads along, nor plays the node.
    let proxy = Proxy::to(node.address().unwrap());
    let env = RemoteEnvironment::connect("test", proxy.address()).key(key.clone()).blocking().unwrap();
    assert!(env.blocking().health().unwrap().accepting);
    assert_eq!(env.blocking().jobs().unwrap(), []);
    env.blocking().close();
    let [to_node, to_client] = proxy.heard();
    assert!(to_node[80..83] == [0x16, 3, 1] && to_client[65] == 0x16, "TLS follows the hellos");
    // Another node that has the very same secret, as others who were given it do.
    let digits = key.reveal().split(':').nth(2).unwrap().to_owned();
    let impostor = Node::builder().address("127.0.0.1:0").key(Key::from_hex(&digits).unwrap()).open().unwrap();
    let there = impostor.address().unwrap().to_string();
    let error = RemoteEnvironment::connect("test", there).key(key.clone()).blocking().unwrap_err();
    let ConnectError::Refused { message, .. } = &error else { panic!("{error:?}") };
    assert!(message.contains("not the node that handed out the key"), "{message}");
    drop(impostor);
    // Without its pin, the secret is a reader's all the same.
    let plain = RemoteEnvironment::connect("test", address.as_str()).key(Key::from_hex(&digits).unwrap());
    let env = plain.blocking().unwrap();
    assert_eq!(answered(env.blocking().cleanup()), Ok(Forbidden));
    env.blocking().close();
    let error = Node::builder().without_listener().key(key).open().unwrap_err();
    assert!(matches!(error, proscenium::NodeError::Key(proscenium::KeyError::HandedOut)), "{error:?}");
    drop(node);
}
