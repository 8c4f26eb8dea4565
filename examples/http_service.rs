//! A web service that embeds a long-lived job: its handlers push requests into the job and call the job's service.
//!
//! ```text
//! cargo run --release --example http_service
//! ```
//!
//! prints, being its own client:
//! ```text
//! GET /prices/tea -> 200 3
//! POST /orders/tea -> 202
//! POST /orders/ham -> 202
//! revenue [10], completed
//! ```

use std::{error::Error, net::SocketAddr};

use actix::{Actor, Context, Handler, Message};
use axum::{Router, extract::Path, extract::State, http::StatusCode, routing::get, routing::post};
use proscenium::{BuildError, Flow, Job, JobHandle, LocalEnvironment, MessageTable, Outcome, Service};
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncReadExt as _, io::AsyncWriteExt as _, net::TcpListener, net::TcpStream};

struct Prices;

#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "u64")]
struct PriceOf(String);

impl Actor for Prices {
    type Context = Context<Self>;
}

impl Service for Prices {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<PriceOf>("price-of");
    }
}

impl Handler<PriceOf> for Prices {
    type Result = u64;

    fn handle(&mut self, PriceOf(article): PriceOf, _: &mut Context<Self>) -> u64 {
        if article == "tea" { 3 } else { 7 }
    }
}

#[derive(Serialize, Deserialize)]
struct Shop;

impl Job for Shop {
    const NAME: &'static str = "shop";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.register_service("prices", || Prices);
        flow.from_channel::<String>("orders")
            .map_async(16, async |ctx, article| Ok(ctx.service::<Prices>("prices")?.call(PriceOf(article)).await?))
            .sum()
            .collect("revenue");
        Ok(())
    }
}

async fn order(State(job): State<JobHandle>, Path(article): Path<String>) -> StatusCode {
    if job.input("orders").send(article).await.is_ok() { StatusCode::ACCEPTED } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn price(State(job): State<JobHandle>, Path(article): Path<String>) -> Result<String, StatusCode> {
    let price = job.service::<Prices>("prices").call(PriceOf(article)).await;
    price.map(|price| price.to_string()).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

async fn request(server: SocketAddr, what: &str) -> Result<String, Box<dyn Error>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(format!("{what} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let (head, body) = response.split_once("\r\n\r\n").ok_or("an answer without a body")?;
    let answer = format!("{} {body}", &head["HTTP/1.1 ".len()..][..3]);
    println!("{what} -> {answer}");
    Ok(answer)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let env = LocalEnvironment::new("shop");
    let job = env.submit(Shop).autostop(true).await?;
    let routes = Router::new().route("/orders/{article}", post(order)).route("/prices/{article}", get(price));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(axum::serve(listener, routes.with_state(job.clone())).into_future());
    assert_eq!(request(address, "GET /prices/tea").await?, "200 3");
    assert_eq!(request(address, "POST /orders/tea").await?, "202 ");
    assert_eq!(request(address, "POST /orders/ham").await?, "202 ");
    server.abort();
    job.input::<String>("orders").finish().await?;
    let (outcome, revenue) = (job.wait().await?, job.output::<u64>("revenue").await?);
    println!("revenue {revenue:?}, {outcome}");
    assert_eq!((outcome, revenue), (Outcome::Completed, vec![10]));
    Ok(())
}
