"""Trained models put to use: predictor, exported formats, HTTP service, web page, Kaggle submission."""
