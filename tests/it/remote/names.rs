//! What a job and its services are known by on a node: names, and the structure of what travels.

use actix::{Actor, Context, Handler, Message};
use proscenium::{
    BuildError, CallError, Environment, Flow, Job, JobRegistry, Limits, MessageTable, OutputError, Service, ServiceRef,
    SubmitError,
};
use serde::{Deserialize, Serialize};

use super::{connect, node};
use crate::support::{block_on, deadline};

/// What the node was built with.
mod there {
    use super::*;

    #[derive(Debug, Message, Serialize, Deserialize)]
    #[rtype(result = "u64")]
    pub struct Weigh(pub u64);

    #[derive(Debug, Message, Serialize, Deserialize)]
    #[rtype(result = "u64")]
    pub struct Tare;

    #[derive(Debug)]
    pub struct Scales<T>(pub T);

    impl<T: Unpin + 'static> Actor for Scales<T> {
        type Context = Context<Self>;
    }

    impl<T: Unpin + 'static> Service for Scales<T> {
        fn messages(table: &mut MessageTable<Self>) {
            table.accept::<Weigh>("weigh").accept::<Tare>("tare");
        }
    }

    impl<T: Unpin + 'static> Handler<Weigh> for Scales<T> {
        type Result = u64;

        fn handle(&mut self, Weigh(grams): Weigh, _: &mut Self::Context) -> u64 {
            grams
        }
    }

    impl<T: Unpin + 'static> Handler<Tare> for Scales<T> {
        type Result = u64;

        fn handle(&mut self, _: Tare, _: &mut Self::Context) -> u64 {
            0
        }
    }

    #[derive(Serialize, Deserialize)]
    pub struct Grams(pub u64);

    #[derive(Serialize, Deserialize)]
    pub struct Desk {
        pub grams: u64,
    }

    impl Job for Desk {
        const NAME: &'static str = "desk";

        fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
            flow.register_service("scales", || Scales(0u8));
            flow.from_batch([self.grams]).map(Grams).collect("grams");
            Ok(())
        }
    }
}

/// What a client has written down of it for itself.
mod here {
    use super::*;

    #[derive(Debug, Message, Serialize, Deserialize)]
    #[serde(rename = "Weigh")]
    #[rtype(result = "u64")]
    pub struct Ask(pub u64);

    /// As the node's, under another name.
    #[derive(Debug, Message, Serialize, Deserialize)]
    #[rtype(result = "u64")]
    pub struct Weighing(pub u64);

    /// An actor that is never run, for each name and message.
    macro_rules! mirror {
        ($name:ident, $message:ty) => {
            #[derive(Debug)]
            pub struct $name;

            impl Actor for $name {
                type Context = Context<Self>;
            }

            impl Service for $name {
                fn messages(table: &mut MessageTable<Self>) {
                    table.accept::<$message>("weigh");
                }
            }

            impl Handler<$message> for $name {
                type Result = u64;

                fn handle(&mut self, _: $message, _: &mut Self::Context) -> u64 {
                    unreachable!("it runs on the node")
                }
            }
        };
    }

    mirror!(Scales, Ask);
    mirror!(Mirror, Ask);
    pub mod renamed {
        use super::*;
        mirror!(Scales, Weighing);
    }

    /// As the node's, under other names.
    macro_rules! desk {
        ($name:ident, $(#[$renamed:meta])?) => {
            #[derive(Serialize, Deserialize)]
            $(#[$renamed])?
            pub struct $name {
                pub grams: u64,
            }

            impl Job for $name {
                const NAME: &'static str = "desk";

                fn build(&self, _: &mut Flow) -> Result<(), BuildError> {
                    unreachable!("it runs on the node")
                }
            }
        };
    }

    desk!(Renamed, #[serde(rename = "Desk")]);
    desk!(Desk2,);
}

pub fn jobs() -> JobRegistry {
    proscenium::jobs![there::Desk]
}

#[test]
fn a_clients_own_types_are_those_of_the_node_if_names_as_serde_has_them_and_structure_are() {
    let (node, address, key) = node(Limits::default());
    block_on(async {
        let env = connect(address, &key);
        let error = deadline("the refusal", env.submit(here::Desk2 { grams: 1 })).await.unwrap_err();
        let difference = "the type is struct `Desk2` here and struct `Desk` there".to_owned();
        assert_eq!(error, SubmitError::TypeDiffers { job: "desk".to_owned(), difference });
        let job = deadline("the submit", env.submit(here::Renamed { grams: 5 })).await.unwrap();

        // Its own actor and message, in another module, without a type parameter, and with one of the two messages.
        let scales: ServiceRef<here::Scales> = job.service("scales");
        assert_eq!(deadline("the call", scales.call(here::Ask(7))).await, Ok(7));

        let mirror: ServiceRef<here::Mirror> = job.service("scales");
        let error = deadline("the refusal", mirror.call(here::Ask(7))).await.unwrap_err();
        assert!(matches!(&error, CallError::WrongService { asked, .. } if asked.ends_with("Mirror")), "{error:?}");

        let renamed: ServiceRef<here::renamed::Scales> = job.service("scales");
        let error = deadline("the refusal", renamed.call(here::Weighing(7))).await.unwrap_err();
        let CallError::TypeDiffers { difference, .. } = &error else { panic!("{error:?}") };
        assert_eq!(difference, "the type is struct `Weighing` here and struct `Weigh` there");

        let error = deadline("the refusal", job.output::<u64>("grams")).await.unwrap_err();
        assert!(matches!(error, OutputError::WrongType { .. }), "a newtype is not what it wraps: {error:?}");
        job.cancel().await.unwrap();
        env.close().await;
    });
    drop(node);
}
