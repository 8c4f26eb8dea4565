//! Connections that are encrypted.

use proscenium::{ConnectError, Environment, Key, Node, Outcome, RemoteEnvironment, TlsError, TlsIdentity, TlsTrust};

use super::Everything;
use crate::support::{Answer, Echo, Journal, Proxy, block_on, deadline, ended};

pub(super) struct Certificate {
    certificate: String,
    key: String,
}

impl Certificate {
    pub(super) fn of(host: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
        Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    fn identity(&self) -> TlsIdentity {
        TlsIdentity::from_pem(self.certificate.as_bytes(), self.key.as_bytes()).unwrap()
    }

    pub(super) fn pinned(&self) -> TlsTrust {
        TlsTrust::pinned(self.certificate.as_bytes()).unwrap()
    }
}

pub(super) fn node(certificate: &Certificate, key: &Key) -> (Node, u16) {
    let node = Node::builder().jobs(crate::jobs()).address("0.0.0.0:0").key(key.clone()).task_threads(2);
    let node = node.tls(certificate.identity()).open().unwrap();
    let port = node.address().unwrap().port();
    (node, port)
}

#[test]
fn a_pinned_certificate_is_trusted_whatever_its_name_and_no_other_is() {
    let (certificate, key) = (Certificate::of("somewhere.example"), Key::generate());
    let (node, port) = node(&certificate, &key);
    block_on(async {
        let connect = || RemoteEnvironment::connect("test", format!("127.0.0.1:{port}")).key(key.clone());
        let env = connect().tls(certificate.pinned()).await.unwrap();
        let journal = Journal::new();
        let job = env.submit(Everything { pen: journal.pen() }).autostop(true).await.unwrap();
        assert_eq!(job.service::<Echo>("echo").call(Answer(3)).await.unwrap(), 3);
        let numbers = job.input::<u64>("numbers");
        numbers.send_all(0..1000).await.unwrap();
        numbers.finish().await.unwrap();
        assert_eq!(deadline("the output", job.output::<u64>("live")).await.unwrap().len(), 1000);
        assert_eq!(ended(&job).await, Outcome::Completed);
        env.close().await;

        let other = Certificate::of("somewhere.example");
        let error = deadline("the refusal", connect().tls(other.pinned())).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
        let wrong_key = connect().key(Key::generate()).tls(certificate.pinned());
        let error = deadline("the refusal", wrong_key).await.unwrap_err();
        assert!(matches!(&error, ConnectError::Refused { message, .. } if message.contains("key")), "{error:?}");
        // Who wants no certificate has the shared key to tell the node by, with encryption and, on this machine, without.
        for encrypted in [true, false] {
            let env = deadline("connecting", connect().encrypted(encrypted)).await.unwrap();
            assert!(env.health().await.unwrap().accepting);
            env.close().await;
        }
    });
    drop(node);
}

#[test]
fn an_authority_vouches_for_a_host_by_its_name() {
    let (certificate, key) = (Certificate::of("localhost"), Key::generate());
    let (node, port) = node(&certificate, &key);
    block_on(async {
        let trust = || TlsTrust::authorities(certificate.certificate.as_bytes()).unwrap();
        let connect = |host: &str| RemoteEnvironment::connect("test", format!("{host}:{port}")).key(key.clone());
        let env = deadline("connecting", connect("localhost").tls(trust())).await.unwrap();
        assert!(env.health().await.unwrap().accepting);
        env.close().await;
        let error = deadline("the refusal", connect("127.0.0.1").tls(trust())).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    });
    drop(node);
}

/// Whether a job with these parameters can be read along by whoever is on the way.
fn is_readable(node_encrypts: bool, client_encrypts: bool) -> bool {
    let key = Key::generate();
    let node = Node::builder().jobs(crate::jobs()).address("127.0.0.1:0").key(key.clone()).task_threads(1);
    let node = node.encrypted(node_encrypts).open().unwrap();
    let proxy = Proxy::to(node.address().unwrap());
    let heard = block_on(async {
        let connect = RemoteEnvironment::connect("test", proxy.address()).key(key).encrypted(client_encrypts);
        let env = deadline("connecting", connect).await.unwrap();
        let journal = Journal::new();
        let job = env.submit(Everything { pen: journal.pen() }).autostop(true).await.unwrap();
        assert_eq!(job.service::<Echo>("echo").call(Answer(3)).await.unwrap(), 3);
        job.input::<u64>("numbers").finish().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        env.close().await;
        proxy.heard()
    });
    drop(node);
    heard.iter().any(|bytes| bytes.windows(10).any(|window| window == b"Everything"))
}

#[test]
fn without_a_certificate_a_connection_is_encrypted_if_either_side_says_so() {
    assert!(is_readable(false, false), "within a machine, unless somebody says otherwise");
    assert!(!is_readable(true, false), "behind a forwarded port: the client sees this machine, and the node is told");
    assert!(!is_readable(false, true), "before a forwarded port: the client is told, and the node sees this machine");
    assert!(!is_readable(true, true));
}

#[test]
fn another_key_is_refused_over_an_encrypted_connection_too() {
    let node = Node::builder().address("127.0.0.1:0").key(Key::generate()).encrypted(true).open().unwrap();
    let connect = RemoteEnvironment::connect("test", node.address().unwrap().to_string()).key(Key::generate());
    let error = connect.blocking().unwrap_err();
    assert!(matches!(&error, ConnectError::Refused { message, .. } if message.contains("key")), "{error:?}");
    drop(node);
}

#[test]
fn another_machine_is_reached_with_the_key_alone_and_nobody_reads_along() {
    // The address by which other machines would reach this one; the kernel looks up the route, and sends nothing.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let Ok(own) = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()) else { return };
    let key = Key::generate();
    let node = Node::builder().address(format!("{}:0", own.ip())).key(key.clone()).open().unwrap();
    let address = node.address().unwrap().to_string();
    let env = RemoteEnvironment::connect("test", address.as_str()).key(key.clone()).blocking().unwrap();
    assert!(env.blocking().health().unwrap().accepting);
    env.blocking().close();
    let wanting = RemoteEnvironment::connect("test", address).key(key).tls(Certificate::of("a.example").pinned());
    let error = wanting.blocking().unwrap_err();
    let ConnectError::Refused { message, .. } = &error else { panic!("{error:?}") };
    assert!(message.contains("the node has no certificate"), "{message}");
    drop(node);
}

#[test]
fn what_is_no_certificate_is_refused() {
    assert!(matches!(TlsTrust::pinned(b"nothing"), Err(TlsError::Pem { .. })));
    assert!(matches!(TlsIdentity::from_pem_files("/nowhere", "/nowhere"), Err(TlsError::Unreadable { .. })));
    let (one, other) = (Certificate::of("a.example"), Certificate::of("a.example"));
    let mixed = TlsIdentity::from_pem(one.certificate.as_bytes(), other.key.as_bytes());
    assert!(matches!(mixed, Err(TlsError::Unusable { .. })), "{mixed:?}");
}
