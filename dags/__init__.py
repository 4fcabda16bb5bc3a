"""Airflow: when and how often the flows run."""
