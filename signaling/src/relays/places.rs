//! Where on the globe an address is, by a file in MaxMind's format (GeoLite2 City, DB-IP City Lite and the like).

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use maxminddb::{MaxMindDbError, Reader};
use serde::Deserialize;

use super::coordinates::Coordinates;

/// Records that are looked at for coordinates when a file is opened. Of a city database nearly each has them; of one
/// for countries or networks, none.
const RECORDS_TRIED: usize = 1_000;

/// A file that knows the places of addresses, held in memory as it is.
pub(super) struct Places {
    reader: Reader<Vec<u8>>,
}

/// A file cannot be used. The operator's fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlacesError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// It is not of MaxMind's format, or damaged.
    #[error("not a MaxMind database: {0}")]
    Format(String),
    /// It knows something else of addresses.
    #[error("a database of type {0} has no coordinates; one for cities has")]
    NoCoordinates(String),
}

/// What is of interest in a record.
#[derive(Deserialize)]
struct Record {
    location: Option<Location>,
}

#[derive(Deserialize)]
struct Location {
    latitude: Option<f64>,
    longitude: Option<f64>,
}

impl Places {
    pub(super) fn open(path: &Path) -> Result<Self, PlacesError> {
        Self::read(std::fs::read(path)?)
    }

    fn read(file: Vec<u8>) -> Result<Self, PlacesError> {
        let places = Self { reader: Reader::from_source(file).map_err(format_error)? };
        match places.has_coordinates()? {
            true => Ok(places),
            false => Err(PlacesError::NoCoordinates(places.database_type().to_owned())),
        }
    }

    /// None if the file does not know, as of private addresses.
    pub(super) fn find(&self, address: IpAddr) -> Option<Coordinates> {
        let found = self.reader.lookup(address.to_canonical()).ok()?;
        found.decode::<Record>().ok().flatten()?.coordinates()
    }

    pub(super) fn database_type(&self) -> &str {
        &self.reader.metadata().database_type
    }

    /// When the file was made, in seconds since 1970.
    pub(super) fn built_at_s(&self) -> u64 {
        self.reader.metadata().build_epoch
    }

    fn has_coordinates(&self) -> Result<bool, PlacesError> {
        for network in self.reader.networks(Default::default()).map_err(format_error)?.take(RECORDS_TRIED) {
            let record = network.and_then(|found| found.decode::<Record>()).map_err(format_error)?;
            if record.and_then(|record| record.coordinates()).is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Record {
    fn coordinates(&self) -> Option<Coordinates> {
        let location = self.location.as_ref()?;
        Coordinates::new(location.latitude?, location.longitude?)
    }
}

fn format_error(error: MaxMindDbError) -> PlacesError {
    PlacesError::Format(error.to_string())
}

/// Shows of which kind the file is.
impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places").field("type", &self.database_type()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/places").join(name)
    }

    fn place(latitude: f64, longitude: f64) -> Option<Coordinates> {
        Some(Coordinates::new(latitude, longitude).unwrap())
    }

    #[test]
    fn addresses_of_both_kinds_have_places() {
        let places = Places::open(&file("city.mmdb")).unwrap();
        let find = |address: &str| places.find(address.parse().unwrap());
        assert_eq!(find("192.0.2.1"), place(50.11, 8.68));
        assert_eq!(find("192.0.2.255"), place(50.11, 8.68));
        assert_eq!(find("::ffff:192.0.2.1"), place(50.11, 8.68), "an IPv4 client of a socket for both");
        assert_eq!(find("2001:db8:1:ffff::7"), place(38.95, -77.45));
        assert!(format!("{places:?}").contains("Zynk-Test-City"));
        assert!(places.built_at_s() > 0);
    }

    #[test]
    fn what_is_not_known_has_no_place() {
        let places = Places::open(&file("city.mmdb")).unwrap();
        for address in ["10.0.0.1", "127.0.0.1", "::1", "fe80::1", "2001:db8:ffff::1", "203.0.113.9"] {
            assert_eq!(places.find(address.parse().unwrap()), None, "{address}");
        }
        assert_eq!(places.find("198.51.100.129".parse().unwrap()), None, "a record without coordinates");
        assert_eq!(
            places.find("198.51.100.193".parse().unwrap()),
            None,
            "coordinates that are not on the globe"
        );
    }

    #[test]
    fn a_file_for_ipv4_knows_nothing_of_ipv6() {
        let places = Places::open(&file("city-ipv4.mmdb")).unwrap();
        assert_eq!(places.find("192.0.2.1".parse().unwrap()), place(50.11, 8.68));
        assert_eq!(places.find("::ffff:192.0.2.1".parse().unwrap()), place(50.11, 8.68));
        assert_eq!(places.find("2001:db8:1::1".parse().unwrap()), None);
    }

    #[test]
    fn other_files_are_refused() {
        let error = |name: &str| Places::open(&file(name)).unwrap_err().to_string();
        assert!(error("missing.mmdb").contains("No such file"), "{}", error("missing.mmdb"));
        assert!(error("make.py").starts_with("not a MaxMind database: "), "{}", error("make.py"));
        let country = error("country.mmdb");
        assert_eq!(country, "a database of type Zynk-Test-Country has no coordinates; one for cities has");
    }

    #[test]
    fn damaged_files_fail_softly() {
        let whole = std::fs::read(file("city.mmdb")).unwrap();
        for index in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[index] ^= 0xff;
            if let Ok(places) = Places::read(damaged) {
                for address in ["192.0.2.1", "2001:db8:1::1", "0.0.0.0", "::"] {
                    let _ = places.find(address.parse().unwrap());
                }
            }
        }
    }
}
