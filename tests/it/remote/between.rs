//! Somebody between a client and a node, who does not have their key.

use std::{io, net::SocketAddr, sync::Arc, thread};

use proscenium::{ConnectError, Key, Node, RemoteEnvironment};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector, rustls,
    rustls::{
        ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::ring,
        pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
        server::AlwaysResolvesServerRawPublicKeys,
        sign::CertifiedKey,
    },
};

use crate::support::{Cut, Flip, Proxy};

/// In front of the 32 bytes of an Ed25519 private key, this is the form of RFC 8410.
const ED25519_PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// Where the hello of a client has its bit *needs encryption*, and the answer of a node.
const CLIENT_BIT: u64 = 12;
const NODE_BIT: u64 = 1 + 12;

/// Takes any raw key.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn as_node() -> TlsAcceptor {
    let pkcs8 = PrivatePkcs8KeyDer::from([&ED25519_PKCS8[..], &[1; 32]].concat());
    let key = ring::sign::any_eddsa_type(&pkcs8).unwrap();
    let shown = CertificateDer::from(key.public_key().unwrap().as_ref().to_vec());
    let resolver = AlwaysResolvesServerRawPublicKeys::new(Arc::new(CertifiedKey::new(vec![shown], key)));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    TlsAcceptor::from(Arc::new(config))
}

fn as_client() -> TlsConnector {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Passes on the hellos, encrypts with the client with a key pair of its own, and with the node too, unless the node is
/// kept from knowing that anybody wants that.
async fn pass_on(mut client: TcpStream, node: SocketAddr, is_stripped: bool) -> io::Result<()> {
    let mut node = TcpStream::connect(node).await?;
    let mut hello = [0; 80];
    client.read_exact(&mut hello).await?;
    hello[CLIENT_BIT as usize] &= !u8::from(is_stripped);
    node.write_all(&hello).await?;
    let mut answer = [0; 65];
    node.read_exact(&mut answer).await?;
    client.write_all(&answer).await?;
    let mut to_client = as_node().accept(client).await?;
    if is_stripped {
        copy_bidirectional(&mut to_client, &mut node).await?;
    } else {
        let name = ServerName::try_from("node.invalid").unwrap();
        let mut to_node = as_client().connect(name, node).await?;
        copy_bidirectional(&mut to_client, &mut to_node).await?;
    }
    Ok(())
}

/// Where somebody listens who passes on one connection.
fn in_between(node: SocketAddr, is_stripped: bool) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, _) = TcpListener::from_std(listener).unwrap().accept().await.unwrap();
            // How it ends shows on both sides.
            let _ = pass_on(client, node, is_stripped).await;
        });
    });
    address
}

fn node(encrypted: bool) -> (Node, SocketAddr, Key) {
    let key = Key::generate();
    let node = Node::builder().address("127.0.0.1:0").key(key.clone()).encrypted(encrypted).open().unwrap();
    let address = node.address().unwrap();
    (node, address, key)
}

fn connect(address: impl ToString, key: &Key, encrypted: bool) -> Result<RemoteEnvironment, ConnectError> {
    RemoteEnvironment::connect("test", address.to_string()).key(key.clone()).encrypted(encrypted).blocking()
}

#[test]
fn one_who_encrypts_with_a_key_pair_of_its_own_is_refused_by_name() {
    let (node, address, key) = node(false);
    for is_stripped in [false, true] {
        let error = connect(in_between(address, is_stripped), &key, true).unwrap_err();
        let ConnectError::Refused { message, .. } = &error else { panic!("{is_stripped}: {error:?}") };
        assert!(message.contains("the key is not one of the node's"), "{is_stripped}: {message}");
    }
    connect(address, &key, true).unwrap().blocking().close();
    drop(node);
}

#[test]
fn nobody_is_let_in_whose_need_for_encryption_was_kept_from_the_other_side() {
    for (node_needs, client_needs, way, at) in [(false, true, 0, CLIENT_BIT), (true, false, 1, NODE_BIT)] {
        let (node, address, key) = node(node_needs);
        let proxy = Proxy::to(address);
        let flip = Some(Flip { way, at, bit: 0 });
        proxy.cut_next([Cut { flip, ..Cut::default() }]);
        let error = connect(proxy.address(), &key, client_needs).unwrap_err();
        assert!(matches!(error, ConnectError::Refused { .. }), "{way}: {error:?}");
        connect(proxy.address(), &key, client_needs).unwrap().blocking().close();
        drop(node);
    }
}
