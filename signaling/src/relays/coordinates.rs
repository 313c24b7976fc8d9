//! Places on the globe, and how far they are from each other.

/// Mean radius of the Earth (IUGG's R1), in metres.
const EARTH_RADIUS_M: f64 = 6_371_008.8;

/// A place on the globe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Coordinates {
    latitude_degrees: f64,
    longitude_degrees: f64,
}

/// A distance over the ground. In whole metres, so that places that are equally far away are equal here too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Metres(pub(crate) u64);

impl Coordinates {
    /// None if the latitude is not within ±90° or the longitude not within ±180°.
    pub(crate) fn new(latitude_degrees: f64, longitude_degrees: f64) -> Option<Self> {
        let is_valid = is_latitude(latitude_degrees) && is_longitude(longitude_degrees);
        is_valid.then_some(Self { latitude_degrees, longitude_degrees })
    }

    /// The way along the great circle on a globe: within 0.6 % of what it is on the Earth, by the haversine formula,
    /// which is exact for near places too.
    pub(crate) fn distance(self, other: Self) -> Metres {
        let (from, to) = (self.latitude_degrees.to_radians(), other.latitude_degrees.to_radians());
        let half_sine = |angle: f64| (angle / 2.0).sin().powi(2);
        let turn = (other.longitude_degrees - self.longitude_degrees).to_radians();
        let haversine = half_sine(to - from) + from.cos() * to.cos() * half_sine(turn);
        // Rounding may bring opposite points a little above 1.
        let metres = 2.0 * EARTH_RADIUS_M * haversine.min(1.0).sqrt().asin();
        Metres(metres.round() as u64)
    }
}

pub(crate) fn is_latitude(degrees: f64) -> bool {
    (-90.0..=90.0).contains(&degrees)
}

pub(crate) fn is_longitude(degrees: f64) -> bool {
    (-180.0..=180.0).contains(&degrees)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kilometres(from: (f64, f64), to: (f64, f64)) -> u64 {
        let at = |(latitude, longitude)| Coordinates::new(latitude, longitude).unwrap();
        assert_eq!(at(from).distance(at(to)), at(to).distance(at(from)), "both ways are equally long");
        (at(from).distance(at(to)).0 + 500) / 1_000
    }

    #[test]
    fn distances_are_those_of_the_globe() {
        let (frankfurt, virginia, singapore) = ((50.11, 8.68), (38.95, -77.45), (1.35, 103.82));
        // The same by another formula: the angle between the places' vectors.
        assert_eq!(kilometres(frankfurt, virginia), 6_553);
        assert_eq!(kilometres(frankfurt, singapore), 10_258);
        assert_eq!(kilometres(frankfurt, frankfurt), 0);
        assert_eq!(kilometres((10.0, 20.0), (-10.0, -160.0)), 20_015, "half around");
    }

    #[test]
    fn the_antimeridian_is_no_border() {
        let fiji_east_and_west = kilometres((-17.0, 179.5), (-17.0, -179.5));
        assert_eq!(fiji_east_and_west, 106);
        assert_eq!(kilometres((5.0, 180.0), (5.0, -180.0)), 0);
    }

    #[test]
    fn a_pole_is_one_place() {
        for pole in [90.0, -90.0] {
            assert_eq!(kilometres((pole, 0.0), (pole, 135.0)), 0);
            let from_equator = kilometres((pole, -77.0), (0.0, 12.0));
            assert_eq!(from_equator, 10_008);
        }
        assert_eq!(kilometres((90.0, 0.0), (-90.0, 0.0)), 20_015);
    }

    #[test]
    fn what_is_not_on_the_globe_has_no_coordinates() {
        for (latitude, longitude) in [(90.1, 0.0), (-91.0, 0.0), (0.0, 180.5), (0.0, -181.0), (f64::NAN, 0.0)]
        {
            assert_eq!(Coordinates::new(latitude, longitude), None, "{latitude} {longitude}");
        }
        assert_eq!(Coordinates::new(0.0, f64::INFINITY), None);
        assert!(Coordinates::new(-90.0, 180.0).is_some());
    }
}
