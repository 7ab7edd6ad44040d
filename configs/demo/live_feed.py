#!/usr/bin/env python3
"""Simulate the Halden & Rowe web shop and write its live figures into Trivium.

The script keeps a rolling list of random orders and stock levels. Every few
seconds it replaces six small documents, so that questions such as "What was our
revenue in the last 15 minutes?" have a fresh answer to retrieve.
"""

import argparse
import math
import os
import random
import signal
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

DAY = timedelta(hours=24)
TIMEOUT_S = 5.0
MAX_BACKOFF_S = 5.0
LOW_STOCK = 10  # the handbook's stock alert level, in pieces
RESTOCK_CHANCE = 0.01  # per low product and write
# Product title in the handbook -> (price in EUR, relative demand).
PRODUCTS: dict[str, tuple[float, float]] = {
    "Fjell 2 Tent": (449.0, 6.0),
    "Storr 4 Tent": (729.0, 2.0),
    "Glod Gas Stove": (69.0, 14.0),
    "Bal Multifuel Stove": (159.0, 4.0),
    "Skur Shell Jacket": (329.0, 7.0),
    "Dun Down Jacket": (279.0, 7.0),
    "Sti Hiking Boots": (219.0, 9.0),
    "Topp Mountain Boots": (349.0, 3.0),
    "Vidde 65 Pack": (239.0, 5.0),
    "Sva 28 Daypack": (99.0, 16.0),
    "Natt 7 Sleeping Bag": (299.0, 5.0),
    "Ro Sleeping Mat": (119.0, 12.0),
}


@dataclass(frozen=True, slots=True)
class Order:
    at: datetime
    product: str
    amount: float


@dataclass(slots=True)
class Shop:
    """Random web shop: orders of the last 24 hours and the present stock."""

    rng: random.Random
    now: datetime
    orders: deque[Order] = field(default_factory=deque)
    stock: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stock = {name: self.rng.randint(4, 240) for name in PRODUCTS}
        end, self.now = self.now, self.now - DAY
        self._sell_until(end, take_stock=False)

    def advance(self, now: datetime) -> None:
        """Add the orders placed since the last call and drop those over a day old."""
        self._sell_until(now, take_stock=True)
        while self.orders and self.orders[0].at < now - DAY:
            self.orders.popleft()
        for name, left in self.stock.items():
            if left <= LOW_STOCK and self.rng.random() < RESTOCK_CHANCE:
                self.stock[name] = left + self.rng.randint(80, 200)

    def _sell_until(self, end: datetime, *, take_stock: bool) -> None:
        while True:
            hour = self.now.hour + self.now.minute / 60
            per_minute = 5.5 + 3.5 * math.sin((hour - 10) / 24 * 2 * math.pi)
            at = self.now + timedelta(minutes=self.rng.expovariate(per_minute))
            if at > end:
                self.now = end  # waiting times are memoryless, so the rest may be dropped
                return
            self.now = at
            names = [n for n in PRODUCTS if not take_stock or self.stock[n] > 0]
            if not names:
                continue
            name = self.rng.choices(names, [PRODUCTS[n][1] for n in names])[0]
            if take_stock:
                self.stock[name] -= 1
            extras = round(self.rng.uniform(0, 20), 2) if self.rng.random() < 0.4 else 0.0
            self.orders.append(Order(at, name, PRODUCTS[name][0] + extras))


def documents(shop: Shop) -> list[dict[str, Any]]:
    """Describe the shop as documents with stable ids, one subject each."""
    now = shop.now
    stamp = f"{now:%Y-%m-%d %H:%M:%S} UTC"

    def since(start: datetime) -> tuple[int, float]:
        amounts = [order.amount for order in shop.orders if order.at >= start]
        return len(amounts), sum(amounts)

    def revenue(window: str, start: datetime) -> str:
        count, amount = since(start)
        return f"Our revenue {window} was EUR {amount:,.2f} from {count:,} orders, as of {stamp}."

    def stock(low: int, high: float) -> str:
        pieces = [f"{name} ({n} left)" for name, n in shop.stock.items() if low <= n <= high]
        return ", ".join(pieces) or "none"

    hour_ago = now - timedelta(hours=1)
    count, amount = since(hour_ago)
    pieces_sold = Counter(order.product for order in shop.orders)
    top, sold = pieces_sold.most_common(1)[0] if pieces_sold else ("none", 0)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    entries = [
        ("live-revenue-15m", "Revenue in the last 15 minutes",
         revenue("in the last 15 minutes", now - timedelta(minutes=15))),
        ("live-revenue-1h", "Revenue in the last hour", revenue("in the last hour", hour_ago)),
        ("live-revenue-today", "Revenue today", revenue("today, since 00:00 UTC,", midnight)),
        ("live-orders-1h", "Orders in the last hour",
         f"{count:,} orders came in during the last hour, as of {stamp}. The average order value "
         f"in that hour was EUR {amount / max(count, 1):,.2f}."),
        ("live-top-product", "Best-selling product",
         f"The best-selling product of the last 24 hours is the {top} with {sold:,} pieces sold, "
         f"as of {stamp}."),
        ("live-stock-alerts", "Stock levels and alerts",
         f"Stock alerts as of {stamp}: sold out: {stock(0, 0)}; "
         f"running low: {stock(1, LOW_STOCK)}. "
         f"In stock right now: {stock(LOW_STOCK + 1, math.inf)}."),
    ]  # fmt: skip
    as_of = now.isoformat(timespec="seconds")
    metadata = {"category": "live", "as_of": as_of, "source": "web shop feed"}
    return [
        {"id": i, "title": title, "text": text, "metadata": metadata} for i, title, text in entries
    ]


def write(client: httpx.Client, url: str, shop: Shop) -> bool:
    """Write one batch; report a failure in one line and return False."""
    shop.advance(datetime.now(UTC))
    try:
        client.put(url, json={"documents": documents(shop)}).raise_for_status()
    except httpx.HTTPStatusError as error:
        print(
            f"live_feed: the server answered {error.response.status_code}",
            file=sys.stderr,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        print(
            f"live_feed: the write failed: {type(error).__name__}: {error}",
            file=sys.stderr,
        )
    else:
        return True
    return False


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError("must be above 0 and at most 86400")
    return value


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Feed simulated web shop figures into a Trivium collection.",
        epilog="If TRIVIUM_API_KEY is set in the environment, it is sent as a bearer token.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--base-url",
        default="http://127.0.0.1:8000",
        help="address of the Trivium server",
    )
    add("--collection", default="default", help="collection to write to")
    add("--interval", type=seconds, default=3.0, help="seconds between two batches")
    add(
        "--seed",
        type=int,
        default=None,
        help="random seed, for repeatable orders and stock",
    )
    add(
        "--once",
        action="store_true",
        help="write one batch and exit; exit code 1 if it failed",
    )
    args = parser.parse_args()

    key = os.environ.get("TRIVIUM_API_KEY", "").strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = f"{args.base_url.rstrip('/')}/v1/collections/{args.collection}/documents"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as on Ctrl-C
    try:
        shop = Shop(random.Random(args.seed), datetime.now(UTC))
        with httpx.Client(headers=headers, timeout=TIMEOUT_S) as client:
            if args.once:
                return 0 if write(client, url, shop) else 1
            failures = 0
            while True:
                failures = 0 if write(client, url, shop) else min(failures + 1, 10)
                backoff = min(args.interval * 2**failures, MAX_BACKOFF_S)
                time.sleep(max(args.interval, backoff))
    except KeyboardInterrupt:
        return 1 if args.once else 0


if __name__ == "__main__":
    raise SystemExit(main())
