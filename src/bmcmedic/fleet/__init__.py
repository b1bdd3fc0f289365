"""The stages of out-of-band healing; each imports only earlier ones, `remediation` joins them."""
