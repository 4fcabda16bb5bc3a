"""What a place runs: contract, predictor, hot path. Light: no pandas, no XGBoost, no database."""
