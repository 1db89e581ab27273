"""Trained models put to use: predictor, export, HTTP service, web page, Kaggle submission."""
