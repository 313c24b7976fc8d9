#!/usr/bin/env python3
"""Writes the databases beside this file: a few networks that are set aside for documentation (RFC 5737, RFC 3849) or
loopback, and where they are said to be. Needs `pip install mmdb-writer`."""

from pathlib import Path

from mmdb_writer import MMDBWriter
from netaddr import IPSet

HERE = Path(__file__).parent


def location(latitude, longitude):
    return {"location": {"latitude": latitude, "longitude": longitude, "time_zone": "Etc/UTC"}}


PLACES = {
    "192.0.2.0/24": location(50.11, 8.68),
    "198.51.100.0/26": location(1.35, 103.82),
    "198.51.100.128/26": {"location": {"accuracy_radius": 1000}},
    "198.51.100.192/26": location(123.0, 0.0),
    "2001:db8:1::/48": location(38.95, -77.45),
}
LOOPBACK = {"127.0.0.0/8": location(38.95, -77.45), "::1/128": location(1.35, 103.82)}
COUNTRIES = {"192.0.2.0/24": {"country": {"iso_code": "DE"}}, "2001:db8:1::/48": {"country": {"iso_code": "US"}}}


def write(name, kind, networks, ip_version):
    writer = MMDBWriter(
        ip_version=ip_version,
        ipv4_compatible=ip_version == 6,
        database_type=kind,
        description="Networks for documentation",
        languages=["en"],
        float_type="f64",
    )
    for network, record in networks.items():
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(str(HERE / name))


write("city.mmdb", "Zynk-Test-City", PLACES, 6)
ipv4 = {network: record for network, record in PLACES.items() if ":" not in network}
write("city-ipv4.mmdb", "Zynk-Test-City", ipv4, 4)
write("loopback.mmdb", "Zynk-Test-City", LOOPBACK, 6)
write("country.mmdb", "Zynk-Test-Country", COUNTRIES, 6)
