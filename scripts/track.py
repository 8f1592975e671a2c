from modeling_pjvlt.cli.track import main

if __name__ == "__main__":
    main()
