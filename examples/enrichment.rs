//! Joins two files: orders in CSV with customers in JSON lines. A row that is no order is set aside with its cause.
//!
//! ```text
//! cargo run --release --example enrichment
//! ```
//!
//! writes both files into a folder of its own, which it removes, and prints
//!
//! ```text
//! 61.50 Ada Lovelace, London
//! 30.00 Grace Hopper, New York
//! 5.25 unknown customer 9
//! set aside: `orders.csv`, line 5, field `price`: invalid float literal
//! ```

use std::{error::Error, fs, path::PathBuf};

use proscenium::{BuildError, Csv, ErrorPolicy, Flow, Job, LocalEnvironment};
use serde::{Deserialize, Serialize};

const ORDERS: &str = "\
id,customer,price
1,1,20.50
2,2,30
3,1,41
4,2,forty
5,9,5.25
";

const CUSTOMERS: &str = r#"
{"id": 1, "name": "Ada Lovelace", "town": "London"}
{"id": 2, "name": "Grace Hopper", "town": "New York"}
{"id": 3, "name": "Mary Somerville", "town": "Jedburgh"}
"#;

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    customer: u64,
    price: f64,
}

#[derive(Clone, Serialize, Deserialize)]
struct Customer {
    id: u64,
    name: String,
    town: String,
}

#[derive(Serialize, Deserialize)]
struct Enrichment {
    orders: PathBuf,
    customers: PathBuf,
}

impl Job for Enrichment {
    const NAME: &'static str = "enrichment";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        // No line end is in a field, so several instances can read the file.
        let orders = flow.read_csv::<Order>(Csv::new(&self.orders).one_record_per_line()).on_error(ErrorPolicy::Skip);
        let customers = flow.read_json_lines::<Customer>(&self.customers);
        orders
            .key_by(|order| order.customer)
            .left_outer_join(customers.key_by(|customer| customer.id))
            .map(|(id, (order, customer))| match customer {
                Some(Customer { name, town, .. }) => (format!("{name}, {town}"), order.price),
                None => (format!("unknown customer {id}"), order.price),
            })
            .key_by(|(customer, _)| customer.clone())
            .fold(0.0, |total: &mut f64, (_, price)| *total += price)
            .collect("totals");
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let (orders, customers) = (folder.path().join("orders.csv"), folder.path().join("customers.jsonl"));
    fs::write(&orders, ORDERS)?;
    fs::write(&customers, CUSTOMERS)?;

    let env = LocalEnvironment::new("enrichment");
    let job = env.submit(Enrichment { orders, customers }).autostop(true).blocking()?;
    assert!(job.blocking().wait()?.is_completed());

    let mut totals: Vec<(String, f64)> = job.output("totals").blocking()?;
    totals.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let lines: Vec<String> = totals.iter().map(|(customer, total)| format!("{total:.2} {customer}")).collect();
    assert_eq!(lines, ["61.50 Ada Lovelace, London", "30.00 Grace Hopper, New York", "5.25 unknown customer 9"]);
    println!("{}", lines.join("\n"));

    let letters = job.blocking().dead_letters()?.newest;
    assert_eq!(letters.len(), 1);
    // Without the folder, whose name is another each time.
    println!("set aside: {}", letters[0].cause.replace(&format!("{}/", folder.path().display()), ""));
    Ok(())
}
