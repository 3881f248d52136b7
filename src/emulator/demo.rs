//! Sample containers: what a session with a model leaves behind.

use super::store::Store;

mod chart;

const SALES: &str = "\
quarter,region,revenue_eur,orders
Q1,EMEA,412000,3120
Q1,Americas,538000,4015
Q1,APAC,287000,2210
Q2,EMEA,455000,3388
Q2,Americas,561000,4190
Q2,APAC,334000,2544
Q3,EMEA,431000,3201
Q3,Americas,602000,4477
Q3,APAC,371000,2760
Q4,EMEA,523000,3902
Q4,Americas,688000,5130
Q4,APAC,418000,3155
";

const EMEA: &str = "\
quarter,country,revenue_eur
Q1,Germany,151000
Q1,France,118000
Q2,Germany,163000
Q2,France,127000
Q3,Germany,158000
Q3,France,121000
Q4,Germany,190000
Q4,France,149000
";

const CUSTOMERS: &str = "\
id,name,country,since
1001,Alder & Sons,DE,2019-03-04
1002,Brindle Optics,FR,2020-11-17
1003,Corvid Labs,US,2021-06-30
1004,Dovetail K.K.,JP,2022-01-12
1005,Ébène S.A.,FR,2023-08-21
";

const REPORT: &str = "\
# Quarterly report

Revenue grew in every region over the year; the fourth quarter was the strongest.

| quarter | revenue (EUR) |
|---|---:|
| Q1 | 1,237,000 |
| Q2 | 1,350,000 |
| Q3 | 1,404,000 |
| Q4 | 1,629,000 |

![Revenue by quarter](chart.png)

The Americas lead with 43 % of the year's revenue. EMEA dipped in Q3 and recovered; its countries are in
`figures/by-region/emea.csv`. The figures come from `sales.csv`.
";

/// The year's revenue by quarter, in thousands, as the chart shows it.
const QUARTERS: [u32; 4] = [1237, 1350, 1404, 1629];

/// Fills an empty store; one that holds anything is left as it is.
///
/// # Panics
/// If the data directory does not obey.
pub fn populate(store: &Store) {
    if !store.containers().is_empty() {
        return;
    }
    let old = store.create_container("old-session");
    store.put_model_file(&old, "/mnt/data/notes.txt", b"Gone with the container.\n");
    store.expire_container(&old);

    let report = store.create_container("quarterly-report");
    store.put_upload(&report, "customers.csv", CUSTOMERS.as_bytes());
    store.put_model_file(&report, "/mnt/data/sales.csv", SALES.as_bytes());
    store.put_model_file(&report, "/mnt/data/figures/by-region/emea.csv", EMEA.as_bytes());
    store.put_model_file(&report, "/mnt/data/chart.png", &chart::bars(&QUARTERS));
    store.put_model_file(&report, "/mnt/data/report.md", REPORT.as_bytes());

    let first = store.create_container("auto");
    store.put_model_file(&first, "/mnt/data/primes.txt", b"2 3 5 7 11 13 17 19 23 29\n");
    store.put_model_file(&first, "/mnt/data/primes.py", PRIMES.as_bytes());
    store.create_container("auto");
}

const PRIMES: &str = "\
found = [n for n in range(2, 30) if all(n % d for d in range(2, n))]
print(*found)
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::{Profile, Quirks};

    #[test]
    fn the_samples_are_there_once_and_the_chart_opens() {
        let store = Store::open(None, Quirks::for_profile(Profile::Openai)).unwrap();
        populate(&store);
        populate(&store);
        let containers = store.containers();
        let live: Vec<&str> =
            containers.iter().filter(|c| !c.is_expired()).map(|c| c.name.as_str()).collect();
        assert_eq!(live, ["quarterly-report", "auto", "auto"]);
        let report = &containers.iter().find(|c| c.name == "quarterly-report").unwrap().id;
        let files = store.files(report);
        assert!(files.iter().any(|f| f.source == "user" && f.path.ends_with("-customers.csv")));
        let chart = files.iter().find(|f| f.path == "/mnt/data/chart.png").unwrap();
        let bytes = store.content(report, &chart.id).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (640, 400));
    }
}
