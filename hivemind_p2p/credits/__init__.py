"""Prices, holds, vouchers and receipts: how work is paid without asking the bootstrap each time."""
